"""Makes golden_chats.json: the templates of templates/ rendered as transformers renders them.

    pip install jinja2==3.1.6
    python tests/golden/tokenizer/make_template_goldens.py

The environment follows transformers' documented behaviour: a sandbox with trim_blocks and
lstrip_blocks, loop controls, a {% generation %} block, JSON without HTML escapes.
"""

import json
import pathlib

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.sandbox

HERE = pathlib.Path(__file__).parent

DIALOGUES = {
    "one": [("user", "What is the plot?")],
    "system": [("system", "  Be brief. "), ("user", "Hi!\n"), ("assistant", " Hello. "), ("user", "Why?")],
    "thinking": [
        ("user", "2+2?"),
        ("assistant", "<think>\neasy\n</think>\n\n4"),
        ("user", "<b>& 'so'</b> \"é\" 😀 {{ messages }}"),
        ("assistant", "<think>hm</think>yes"),
    ],
    "not alternating": [("user", "a"), ("user", "b")],
    "late system": [("user", "a"), ("system", "b"), ("user", "c")],
    "odd role": [("narrator", "Once upon a time")],
    "empty content": [("user", ""), ("assistant", "\n\n"), ("user", " ")],
}


class Generation(jinja2.ext.Extension):
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.Scope(body).set_lineno(line)


def tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def raise_exception(message):
    raise jinja2.TemplateError(message)


def environment():
    env = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[jinja2.ext.loopcontrols, Generation],
    )
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    return env


def render(template, dialogue, add_generation_prompt):
    try:
        return {
            "text": template.render(
                messages=[{"role": role, "content": content} for role, content in dialogue],
                tools=None,
                documents=None,
                add_generation_prompt=add_generation_prompt,
                bos_token="<s>",
                eos_token="</s>",
            )
        }
    except jinja2.TemplateError as error:
        return {"error": str(error)}


def main():
    env = environment()
    cases = []
    for path in sorted((HERE / "templates").glob("*.jinja")):
        template = env.from_string(path.read_text())
        for name, dialogue in DIALOGUES.items():
            for prompt in (False, True):
                cases.append(
                    {
                        "template": path.name,
                        "dialogue": name,
                        "messages": dialogue,
                        "add_generation_prompt": prompt,
                        **render(template, dialogue, prompt),
                    }
                )
    lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in cases)
    (HERE / "golden_chats.json").write_text(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    main()

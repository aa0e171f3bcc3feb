"""Makes the tokenizer goldens with Hugging Face's own Python package.

    pip install tokenizers==0.22.2  # ids are the same with 0.23
    python tests/golden/tokenizer/make_tokenizer_goldens.py

Reads nasty_texts.json and the bundled models' tokenizers and writes golden_ids.json. Three
small tokenizers of other families (llama2_like, llama3_like, qwen_like) are trained if their
file is not there; training breaks ties at random, so they come out different every time.
"""

import json
import pathlib

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers
from tokenizers import pre_tokenizers, processors, trainers

HERE = pathlib.Path(__file__).parent
MODELS = HERE.parent.parent.parent / "models"

CORPUS = [
    "The lighthouse keeper wrote the weather down every evening, and every evening it rained.",
    "I'm told that they've counted 1,234 ships, 56 storms and 7 wrecks since the year 1888.",
    "Où est l'île ? Über die Brücke, señor; naïve façade, Łódź, Ærø, Œuvre.",
    "for (int i = 0; i < 10; ++i) { sum += values[i] * 2; }  // add them all up",
    "今天天气很好 我们去公园吧 永和九年 吾輩は猫である",
    "Привет мир! Γειά σου κόσμε. שלום עולם. مرحبا بالعالم",
    "    four spaces\n\n\ttabs and\r\nnewlines   too many    spaces",
    "<|im_start|> is not here to be trusted, nor is <s> nor </s> nor <|eot_id|>.",
    "smile 😀 heart ❤️ family 👨‍👩‍👧",
] * 4

LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def special(text):
    return AddedToken(text, special=True, normalized=False)


def llama2_like():
    """Sentencepiece turned BPE: no pre-tokenizer, metaspace by the normalizer, byte fallback."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=500, limit_alphabet=90, show_progress=False)
    trained.train_from_iterator(CORPUS, trainer)
    learnt = json.loads(trained.to_str())["model"]
    pieces = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)]
    pieces += sorted(learnt["vocab"], key=learnt["vocab"].get)
    merges = [tuple(merge) for merge in learnt["merges"]]
    tokenizer = Tokenizer(
        models.BPE(
            vocab={piece: i for i, piece in enumerate(pieces)},
            merges=merges,
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    tokenizer.add_special_tokens([special(t) for t in ("<unk>", "<s>", "</s>")])
    return tokenizer


def byte_level(normalizer, split, ignore_merges, specials, plain):
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(split), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=600, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_special_tokens([special(t) for t in specials])
    tokenizer.add_tokens([AddedToken(t, special=False, normalized=False) for t in plain])
    return tokenizer


def llama3_like():
    tokenizer = byte_level(
        None, LLAMA3_SPLIT, True, ["<|begin_of_text|>", "<|eot_id|>", "<|im_start|>"], []
    )
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(
                single="<|begin_of_text|> $A",
                special_tokens=[
                    ("<|begin_of_text|>", tokenizer.token_to_id("<|begin_of_text|>"))
                ],
            ),
        ]
    )
    return tokenizer


def qwen_like():
    split = LLAMA3_SPLIT.replace("{1,3}", "")
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    plain = ["<think>", "</think>", "<tool_call>", "</tool_call>"]
    return byte_level(normalizers.NFC(), split, False, specials, plain)


def encode(tokenizer, text, add_special, parse_special):
    tokenizer.encode_special_tokens = not parse_special
    return tokenizer.encode(text, add_special_tokens=add_special).ids


def golden(tokenizer, text):
    parsed = encode(tokenizer, text, True, True)
    literal = encode(tokenizer, text, False, False)
    result = {"parsed": parsed, "decoded": tokenizer.decode(parsed, skip_special_tokens=True)}
    if literal != parsed:
        result["literal"] = literal
    return result


def long_text(texts):
    """What LongText() of tests/core/tokenizer/goldens.cc makes: some 300 KB."""
    joined = "".join(case["text"] * case.get("repeat", 1) + " and so on " for case in texts)
    return "".join(joined[i % 7 :] for i in range(36))


def digest(ids):
    value = len(ids)
    for token in ids:
        value = (value * 1000003 + token) % 2**64
    return str(value)


def main():
    texts = json.loads((HERE / "nasty_texts.json").read_text())
    small = {"llama2_like": llama2_like, "llama3_like": llama3_like, "qwen_like": qwen_like}
    tokenizers = {}
    for name in ("quire-135m", "quire-19m"):
        tokenizers[name] = Tokenizer.from_file(str(MODELS / name / "tokenizer.json"))
    for name, train in small.items():
        path = HERE / f"{name}.json"
        if not path.exists():
            path.write_text(train().to_str() + "\n")
        tokenizers[name] = Tokenizer.from_file(str(path))
    goldens = {}
    for name, tokenizer in tokenizers.items():
        goldens[name] = {
            case["name"]: golden(tokenizer, case["text"] * case.get("repeat", 1))
            for case in texts
        }
        goldens[name]["long text"] = {
            "parsed": digest(encode(tokenizer, long_text(texts), True, True)),
            "literal": digest(encode(tokenizer, long_text(texts), False, False)),
        }
    lines = json.dumps(goldens, separators=(",", ":")).replace('},"', '},\n"')
    (HERE / "golden_ids.json").write_text(lines + "\n")


if __name__ == "__main__":
    main()

"""Makes every golden of this folder with transformers; README.md has format and commands."""

import argparse
import json
import pathlib

import numpy as np
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import AutoConfig

import reference
import tiny_models

HERE = pathlib.Path(__file__).resolve().parent
MODELS = HERE.parent.parent / "models"

TINY_TOKENS, TINY_GREEDY = 96, 32
BUNDLED_GREEDY, BUNDLED_VOCAB_SAMPLE, BUNDLED_TOP = 64, 256, 8
# A greedy token counts only if it leads by far more than the tolerance of the logits (2e-4).
MIN_GREEDY_MARGIN = 5e-3
# A RoPE kind, bias or adapter that changed the logits by less would not be tested by them.
MIN_EFFECT = 0.1


def load_tiny(folder):
    """The folder as transformers (and PEFT) read it: what the golden vouches for."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    options = {"dtype": torch.float32, "attn_implementation": "eager"}
    if (folder / "model.gguf").exists():
        options["gguf_file"] = "model.gguf"
    adapter = folder / "adapter_config.json"
    if not adapter.exists():
        return AutoModelForCausalLM.from_pretrained(folder, **options).eval()
    text = adapter.read_text()
    adapter.unlink()  # transformers would load it by itself, unmerged
    try:
        base = AutoModelForCausalLM.from_pretrained(folder, **options)
    finally:
        adapter.write_text(text)
    return PeftModel.from_pretrained(base, folder).merge_and_unload().eval()


def without_feature(folder, model):
    """(config, weights) of the same model less what the folder is there to test, or None."""
    config = AutoConfig.from_pretrained(folder)
    state = {name: t.clone() for name, t in model.state_dict().items()}
    if (folder / "adapter_config.json").exists():
        state.update({n: t.float() for n, t in load_file(folder / "model.safetensors").items()})
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
        return config, state
    rope = config.rope_parameters
    if rope["rope_type"] != "default":
        config.rope_parameters = {"rope_type": "default", "rope_theta": rope["rope_theta"]}
        return config, state
    special = [n for n in state if n.endswith((".bias", "q_norm.weight", "k_norm.weight"))]
    for name in special:
        state[name].fill_(0.0 if name.endswith(".bias") else 1.0)
    return (config, state) if special else None


def effect_of_feature(folder, model, ids, logits):
    """The largest change of a logit that the folder's special feature makes, or None."""
    plain = without_feature(folder, model)
    if plain is None:
        return None
    effect = float((reference.logits_of(reference.build(*plain), ids) - logits).abs().max())
    if effect < MIN_EFFECT:
        raise AssertionError(f"{folder.name}: what it tests moves the logits by {effect} only")
    return effect


def check_own_reading(folder, model):
    """reference.py's reading (the bundled models rest on it) against transformers' and PEFT's."""
    if (folder / "model.gguf").exists():
        state, _ = reference.load_gguf_llama(folder / "model.gguf")
    elif (folder / "adapter_config.json").exists():
        state = reference.merge_lora(load_file(folder / "model.safetensors"), folder)
    else:
        return
    theirs = model.state_dict()
    for name, values in state.items():
        if not torch.allclose(values.float(), theirs[name], rtol=0, atol=1e-6):
            raise AssertionError(f"{folder.name}: {name} is read differently")


def make_tiny(name):
    """Tries seeds until the greedy tokens are clear of ties and not one token over and over."""
    for seed in range(100):
        folder = tiny_models.write_folder(HERE / "models", name, seed)
        model = load_tiny(folder)
        rng = np.random.default_rng([seed, 7])
        ids = [int(i) for i in rng.integers(0, 256, TINY_TOKENS)]
        tokens, margins = reference.greedy(model, ids, TINY_GREEDY)
        if min(margins) >= MIN_GREEDY_MARGIN and len(set(tokens)) >= 6:
            break
    else:
        raise RuntimeError(f"{name}: no seed gives greedy tokens without near ties")
    logits = reference.logits_of(model, ids)
    check_own_reading(folder, model)
    effect = effect_of_feature(folder, model, ids, logits)
    reference.save_golden(folder / "golden.safetensors",
                          input_ids=ids, logits=logits, greedy=tokens)
    print(f"{name}: seed {seed}, |logits| <= {float(logits.abs().max()):.2f}, "
          f"least greedy margin {min(margins):.4f}, effect {effect}", flush=True)


def prompt_ids(folder, chat):
    text = (HERE / "prompts" / "moby_dick.txt").read_text().strip()
    if chat:
        text = ("<|im_start|>system\nYou are a careful reader of long documents.<|im_end|>\n"
                f"<|im_start|>user\n{text}\n\n"
                "Summarize the document. Use about 100 words.<|im_end|>\n"
                "<|im_start|>assistant\n")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return tokenizer.encode(text, add_special_tokens=False).ids


def vocabulary_sample(size):
    """Fixed, spread over the whole vocabulary, first and last included."""
    return [int(i) for i in np.linspace(0, size - 1, BUNDLED_VOCAB_SAMPLE).round()]


def make_bundled(name, model, ids, positions):
    logits = reference.logits_of(model, ids)
    logprobs = torch.log_softmax(logits[:-1].double(), -1)
    next_logprobs = logprobs.gather(1, torch.tensor(ids)[1:, None])[:, 0]
    at = logits[positions]
    top = at.topk(BUNDLED_TOP)
    sample = vocabulary_sample(logits.shape[1])
    tokens, margins = reference.greedy(model, ids, BUNDLED_GREEDY)
    folder = HERE / "bundled"
    folder.mkdir(exist_ok=True)
    reference.save_golden(
        folder / f"{name}.safetensors", input_ids=ids, positions=positions, vocab_ids=sample,
        logits=at[:, sample], logsumexp=torch.logsumexp(at.double(), -1), top_ids=top.indices,
        top_logits=top.values, prompt_logprob=[float(next_logprobs.sum())],
        logprobs=next_logprobs, greedy=tokens, greedy_margins=margins)
    tokenizer = Tokenizer.from_file(str(MODELS / name.removesuffix("-base") / "tokenizer.json"))
    print(f"{name}: {len(ids)} tokens, |logits| <= {float(logits.abs().max()):.2f}, least greedy "
          f"margin {min(margins):.4f}, prompt logprob {float(next_logprobs.sum()):.4f}\n"
          f"  {tokenizer.decode(tokens, skip_special_tokens=False)!r}", flush=True)
    return logits


def noise(name, logits, model, ids):
    """How far fp32 itself moves: the same model through another attention kernel."""
    model.set_attn_implementation("sdpa")
    print(f"{name}: eager against sdpa, largest difference "
          f"{float((reference.logits_of(model, ids) - logits).abs().max()):.2e}", flush=True)


def make_19m():
    folder = MODELS / "quire-19m"
    model = reference.load_bundled(folder)
    ids = prompt_ids(folder, chat=False)
    logits = make_bundled("quire-19m", model, ids, list(range(len(ids) - 4, len(ids))))
    noise("quire-19m", logits, model, ids)


def make_135m(base_gguf):
    folder = MODELS / "quire-135m"
    model = reference.load_bundled(folder, base_gguf)
    ids = prompt_ids(folder, chat=True)
    logits = make_bundled("quire-135m", model, ids, list(range(len(ids) - 4, len(ids))))
    noise("quire-135m", logits, model, ids)
    _, theta = reference.load_gguf_llama(base_gguf)
    base = reference.load_bundled(folder, base_gguf, theta=theta, adapter=False)
    make_bundled("quire-135m-base", base, ids, list(range(len(ids) - 8, len(ids))))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base-gguf", type=pathlib.Path,
                        help="SmolLM2-135M-Instruct.Q4_1.gguf; without it quire-135m is left out")
    parser.add_argument("--only", nargs="*", help="names of tiny models, or quire-19m, quire-135m")
    args = parser.parse_args()
    torch.manual_seed(0)

    def wanted(name):
        return args.only is None or name in args.only

    for name in filter(wanted, tiny_models.SPECS):
        make_tiny(name)
    if wanted("quire-19m"):
        make_19m()
    if wanted("quire-135m") and args.base_gguf:
        make_135m(args.base_gguf)


if __name__ == "__main__":
    main()

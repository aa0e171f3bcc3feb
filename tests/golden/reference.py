"""What the golden script and the peers share: weights as tensors, reference logits, files.

Everything is fp32 on the CPU unless a caller says otherwise.
"""

import json
import math
import pathlib

import gguf
import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file

# GGUF tensor names of a Llama model -> Hugging Face names.
_TOP_LEVEL = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
GGUF_LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def hf_name(name):
    """Hugging Face's name for a GGUF tensor."""
    if name in _TOP_LEVEL:
        return _TOP_LEVEL[name]
    _, layer, module, kind = name.split(".")
    return f"model.layers.{layer}.{GGUF_LAYER_NAMES[module]}.{kind}"


def interleave_rows(weight, heads):
    """Hugging Face row order (halves i, i + d/2 of a head) -> GGUF order (2i, 2i + 1)."""
    rows, columns = weight.shape
    halves = weight.reshape(heads, 2, rows // heads // 2, columns)
    return halves.swapaxes(1, 2).reshape(rows, columns)


def separate_rows(weight, heads):
    """Undoes interleave_rows."""
    rows, columns = weight.shape
    pairs = weight.reshape(heads, rows // heads // 2, 2, columns)
    return pairs.swapaxes(1, 2).reshape(rows, columns)


def load_gguf_llama(path):
    """(state dict in fp32 under Hugging Face names, rope theta) of a Llama GGUF file."""
    reader = gguf.GGUFReader(path)

    def field(key):
        return reader.fields[key].contents()

    heads = {"attn_q": field("llama.attention.head_count"),
             "attn_k": field("llama.attention.head_count_kv")}
    state = {}
    for tensor in reader.tensors:
        values = gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        values = values.reshape([int(n) for n in reversed(tensor.shape)])
        module = tensor.name.split(".")[-2]
        if module in heads:
            values = separate_rows(values, heads[module])
        state[hf_name(tensor.name)] = torch.from_numpy(np.ascontiguousarray(values))
    return state, field("llama.rope.freq_base")


def merge_lora(state, folder):
    """W += scale * B A in fp32 for every pair of the PEFT adapter in folder."""
    folder = pathlib.Path(folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    rank = math.sqrt(config["r"]) if config.get("use_rslora") else config["r"]
    merged = dict(state)
    with safe_open(folder / "adapter_model.safetensors", "pt") as adapter:
        for key in adapter.keys():
            if not key.endswith(".lora_A.weight"):
                continue
            a = adapter.get_tensor(key).float()
            b = adapter.get_tensor(key.replace("lora_A", "lora_B")).float()
            name = key.removeprefix("base_model.model.").replace(".lora_A", "")
            merged[name] = state[name].float() + config["lora_alpha"] / rank * (b @ a)
    return merged


def build(config, state, dtype=torch.float32, attention="eager"):
    """A transformers model of that config with exactly those weights."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=attention)
    missing, unexpected = model.load_state_dict(state, strict=False)
    tied = {"lm_head.weight"} if config.tie_word_embeddings else set()
    if set(missing) - tied or unexpected:
        raise ValueError(f"missing {missing}, unexpected {unexpected}")
    model.tie_weights()
    return model.eval()


def load_bundled(folder, base_gguf=None, theta=None, adapter=True, **build_options):
    """A model of models/: its own safetensors, or base_gguf with the folder's adapter merged."""
    from safetensors.torch import load_file
    from transformers import AutoConfig

    folder = pathlib.Path(folder)
    config = AutoConfig.from_pretrained(folder)
    if base_gguf is None:
        state = {name: t.float() for name, t in load_file(folder / "model.safetensors").items()}
    else:
        state, _ = load_gguf_llama(base_gguf)
    if base_gguf is not None and adapter:
        state = merge_lora(state, folder)
    if theta is not None:
        config.rope_parameters["rope_theta"] = theta
    return build(config, state, **build_options)


@torch.no_grad()
def logits_of(model, ids):
    """[tokens, vocabulary] in fp32; one whole forward pass without a cache."""
    return model(torch.tensor([ids]), use_cache=False).logits[0].float()


@torch.no_grad()
def greedy(model, ids, count):
    """(tokens, margins): arg max count times, end-of-text ignored; its lead over the second."""
    from transformers import DynamicCache

    cache, tokens, margins = DynamicCache(config=model.config), [], []
    for _ in range(count):
        new = torch.tensor([tokens[-1:] or ids])
        out = model(new, past_key_values=cache, use_cache=True, logits_to_keep=1)
        top = out.logits[0, -1].topk(2)
        tokens.append(int(top.indices[0]))
        margins.append(float(top.values[0] - top.values[1]))
    return tokens, margins


def save_golden(path, **arrays):
    """A safetensors file of F32 tensors; token ids too (exact below 2^24), see README.md."""
    save_file({name: torch.as_tensor(np.asarray(values)).float().contiguous()
               for name, values in arrays.items()}, path)

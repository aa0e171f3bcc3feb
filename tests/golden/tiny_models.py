"""The tiny random models: one folder each under models/, made from a seed."""

import json
import pathlib
import shutil

import gguf
import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

import reference

SPECIAL_TOKENS = ["<|bos|>", "<|eos|>", "<|im_start|>", "<|im_end|>"]
VOCAB_SIZE = 256 + len(SPECIAL_TOKENS)
BOS, EOS = 256, 257

_BASE = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "max_position_embeddings": 256,
    "tie_word_embeddings": True,
    "attention_bias": False,
    "mlp_bias": False,
    "bos_token_id": BOS,
    "eos_token_id": EOS,
    "torch_dtype": "float32",
}
_LINEAR = {"type": "linear", "factor": 4.0}  # the key's older spelling
_LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
           "original_max_position_embeddings": 32}
_YARN = {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 32}
_YARN_NAMED = {**_YARN, "attention_factor": 0.8, "beta_fast": 4.0, "beta_slow": 0.5}
_MISTRAL = {"architectures": ["MistralForCausalLM"], "model_type": "mistral",
            "sliding_window": None}
_QWEN2 = {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "use_sliding_window": False,
          "sliding_window": 256, "max_window_layers": 2, "num_hidden_layers": 3}
_QWEN3 = {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "head_dim": 32,
          "use_sliding_window": False, "sliding_window": None}
_UNTIED = {"tie_word_embeddings": False}

# name -> (changes to _BASE, how the weights are kept)
SPECS = {
    "llama": ({}, {}),
    "llama-untied": (_UNTIED, {"store": "BF16"}),
    "llama-biases": ({"attention_bias": True, "mlp_bias": True}, {"store": "BF16"}),
    "llama-linear": ({"rope_scaling": _LINEAR}, {"store": "BF16"}),
    "llama-llama3": ({"rope_scaling": _LLAMA3}, {"store": "BF16"}),
    "llama-yarn": ({"rope_scaling": _YARN}, {"store": "BF16"}),
    "llama-yarn-attention-factor": ({"rope_scaling": _YARN_NAMED},
                                    {"store": "BF16", "new_config": True}),
    "llama-fp16": ({"torch_dtype": "float16"}, {"store": "F16"}),
    "llama-bf16": ({"torch_dtype": "bfloat16"}, {"store": "BF16"}),
    "llama-sharded": (_UNTIED, {"store": "BF16", "shards": 3}),
    "llama-lora": ({}, {"store": "BF16", "lora": {"r": 4, "lora_alpha": 6}}),
    "llama-rslora": ({}, {"store": "BF16", "lora": {"r": 4, "lora_alpha": 6, "use_rslora": True}}),
    "llama-gguf": (_UNTIED, {"gguf": True}),
    "mistral": ({**_MISTRAL, **_UNTIED}, {"store": "BF16"}),
    "qwen2": (_QWEN2, {"store": "BF16"}),
    "qwen3": ({**_QWEN3, **_UNTIED}, {"store": "BF16", "new_config": True}),
}

_TORCH = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}

# GGUF types of the layers' matrices, chosen so that every type is read, also for q and k,
# whose rows are interleaved.
_Q = gguf.GGMLQuantizationType
_GGUF_TYPES = {
    "token_embd": [_Q.Q8_0], "output": [_Q.BF16],
    "attn_q": [_Q.F16, _Q.Q4_1], "attn_k": [_Q.Q8_0, _Q.BF16], "attn_v": [_Q.Q4_0, _Q.F32],
    "attn_output": [_Q.Q4_1, _Q.Q8_0], "ffn_gate": [_Q.Q8_0, _Q.Q4_0],
    "ffn_up": [_Q.Q4_1, _Q.F16], "ffn_down": [_Q.Q4_0, _Q.Q4_1],
}


def random_state(shapes, rng):
    """Weights large enough that attention is peaked and a wrong rotation shows in the logits."""
    state = {}
    for name, shape in shapes.items():
        normal = rng.standard_normal(shape)
        if name.endswith("norm.weight"):
            values = 1.0 + 0.25 * normal
        elif name.endswith(".bias"):
            values = 0.3 * normal
        elif "embed_tokens" in name or "lm_head" in name:
            values = 0.3 * normal
        else:
            gain = 1.6 if "q_proj" in name or "k_proj" in name else 1.0
            values = gain / np.sqrt(shape[-1]) * normal
        state[name] = torch.from_numpy(values.astype(np.float32))
    return state


def shapes_of(config):
    """Name -> shape of every stored tensor of that config, in a fixed order."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    skip = {"lm_head.weight"} if config.tie_word_embeddings else set()
    return {n: tuple(t.shape) for n, t in sorted(model.state_dict().items()) if n not in skip}


def write_tokenizer(folder):
    """A byte-level tokenizer without merges: 256 bytes and four special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(t, special=True) for t in SPECIAL_TOKENS])
    (folder / "tokenizer.json").write_text(tokenizer.to_str(pretty=False) + "\n")


def write_config(folder, changes, new_config):
    """config.json as older transformers wrote it, or (new_config) as 5.x does."""
    from transformers import AutoConfig

    text = json.dumps({**_BASE, **changes}, indent=2) + "\n"
    (folder / "config.json").write_text(text)
    if new_config:
        AutoConfig.from_pretrained(folder).save_pretrained(folder)
    return AutoConfig.from_pretrained(folder)


def write_safetensors(folder, state, store, shards):
    state = {name: t.to(_TORCH[store]).contiguous() for name, t in state.items()}
    if shards == 1:
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
        return
    weight_map = {}
    for i in range(shards):
        part = {name: state[name] for name in list(state)[i::shards]}
        file = f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
        save_file(part, folder / file, metadata={"format": "pt"})
        weight_map.update({name: file for name in part})
    total = sum(t.numel() * t.element_size() for t in state.values())
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")


def write_lora(folder, shapes, options, rng):
    """A PEFT adapter on every linear layer of the first block and the attention of the second."""
    targets = [n for n in shapes if "_proj.weight" in n and ("layers.0" in n or "self_attn" in n)]
    rank, tensors = options["r"], {}
    for name in targets:
        stem = "base_model.model." + name.removesuffix(".weight")
        rows, columns = shapes[name]
        a = rng.standard_normal((rank, columns)) / np.sqrt(columns)
        b = 0.5 * rng.standard_normal((rows, rank))
        tensors[stem + ".lora_A.weight"] = torch.from_numpy(a.astype(np.float32))
        tensors[stem + ".lora_B.weight"] = torch.from_numpy(b.astype(np.float32))
    config = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": "",
        "bias": "none", "fan_in_fan_out": False, "inference_mode": True, "lora_dropout": 0.0,
        "use_dora": False, "modules_to_save": None, "use_rslora": False,
        "target_modules": [n.removesuffix(".weight") for n in targets], **options,
    }
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n")
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def _gguf_tensors(config, state):
    """(GGUF name, values, type) of every tensor, q and k rows interleaved."""
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    names = {"token_embd.weight", "output_norm.weight", "output.weight"}
    for layer in range(config.num_hidden_layers):
        names |= {f"blk.{layer}.{module}.weight" for module in reference.GGUF_LAYER_NAMES}
    for name in sorted(names):
        parts = name.split(".")
        module, layer = parts[-2], int(parts[1]) if len(parts) == 4 else 0
        values = state[reference.hf_name(name)].numpy()
        if module in heads:
            values = np.ascontiguousarray(reference.interleave_rows(values, heads[module]))
        yield name, values, _GGUF_TYPES.get(module, [_Q.F32] * 8)[layer]


def write_gguf(folder, config, state):
    writer = gguf.GGUFWriter(folder / "model.gguf", "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_vocab_size(config.vocab_size)
    for name, values, kind in _gguf_tensors(config, state):
        writer.add_tensor(name, gguf.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_folder(root, name, seed):
    """Writes the model's folder, anything older of that name removed; returns its path."""
    changes, how = SPECS[name]
    folder = pathlib.Path(root) / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    rng = np.random.default_rng([seed, *name.encode()])
    config = write_config(folder, changes, how.get("new_config", False))
    shapes = shapes_of(config)
    state = random_state(shapes, rng)
    if how.get("gguf"):
        write_gguf(folder, config, state)
    else:
        write_safetensors(folder, state, how.get("store", "F32"), how.get("shards", 1))
    if "lora" in how:
        write_lora(folder, shapes, how["lora"], rng)
    write_tokenizer(folder)
    return folder

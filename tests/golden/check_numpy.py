"""Checks the tiny goldens with a forward pass in plain NumPy (float64), which shares no code with
transformers. Needs numpy only; exits 1 if a model is off. GGUF and adapter folders are left to
make_goldens.py, which compares their weights with transformers' and PEFT's own reading."""

import json
import math
import pathlib
import sys

import numpy as np

TOLERANCE = 1e-4
HERE = pathlib.Path(__file__).resolve().parent


def read_safetensors(path):
    data = path.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    tensors = {}
    for name, entry in json.loads(data[8:end]).items():
        if name == "__metadata__":
            continue
        raw = data[end + entry["data_offsets"][0]:end + entry["data_offsets"][1]]
        if entry["dtype"] == "BF16":
            values = (np.frombuffer(raw, "<u2").astype("<u4") << 16).view("<f4")
        else:
            values = np.frombuffer(raw, {"F32": "<f4", "F16": "<f2"}[entry["dtype"]])
        tensors[name] = values.astype(np.float64).reshape(entry["shape"])
    return tensors


def read_weights(folder):
    weights = {}
    for path in folder.glob("model*.safetensors"):
        weights.update(read_safetensors(path))
    return weights


def rope_of(config):
    """(rope dictionary, theta) of either spelling of config.json."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    return rope, rope.get("rope_theta", config.get("rope_theta"))


def frequencies(config):
    """(radians per position [head_dim / 2], factor of cos and sin)."""
    rope, theta = rope_of(config)
    dim = config["head_dim"]
    plain = theta ** (-np.arange(0, dim, 2) / dim)
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return plain, 1.0
    factor, length = rope["factor"], rope.get("original_max_position_embeddings")
    if kind == "linear":
        return plain / factor, 1.0
    if kind == "llama3":
        low, high = rope["low_freq_factor"], rope["high_freq_factor"]
        turns = length * plain / (2 * math.pi)
        keep = np.clip((turns - low) / (high - low), 0, 1)
        return (1 - keep) * plain / factor + keep * plain, 1.0

    def channel(turns):
        return dim * math.log(length / (2 * math.pi * turns)) / (2 * math.log(theta))

    first = max(math.floor(channel(rope.get("beta_fast", 32.0))), 0)
    last = min(math.ceil(channel(rope.get("beta_slow", 1.0))), dim - 1)
    stretched = np.clip((np.arange(dim // 2) - first) / max(last - first, 1e-3), 0, 1)
    scale = rope.get("attention_factor", 0.1 * math.log(factor) + 1)
    return stretched * plain / factor + (1 - stretched) * plain, scale


def norm(x, weight, epsilon):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + epsilon) * weight


def rotate(x, angles, scale):
    """x [tokens, heads, dim]; pairs (i, i + dim / 2) turned by angles [tokens, dim / 2]."""
    cos, sin = scale * np.cos(angles)[:, None], scale * np.sin(angles)[:, None]
    a, b = np.split(x, 2, -1)
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], -1)


def attention(x, linear, weights, prefix, config, angles, scale):
    tokens, dim = len(x), config["head_dim"]

    def heads(name):
        return linear(x, f"{prefix}.{name}").reshape(tokens, -1, dim)

    q, k, v = heads("q_proj"), heads("k_proj"), heads("v_proj")
    if f"{prefix}.q_norm.weight" in weights:
        q = norm(q, weights[f"{prefix}.q_norm.weight"], config["rms_norm_eps"])
        k = norm(k, weights[f"{prefix}.k_norm.weight"], config["rms_norm_eps"])
    q, k = rotate(q, angles, scale), rotate(k, angles, scale)
    group = q.shape[1] // k.shape[1]
    k, v = np.repeat(k, group, 1), np.repeat(v, group, 1)
    scores = np.einsum("ihd,jhd->hij", q, k) / math.sqrt(dim)
    scores = np.where(np.tri(tokens, dtype=bool), scores, -np.inf)
    shares = np.exp(scores - scores.max(-1, keepdims=True))
    shares /= shares.sum(-1, keepdims=True)
    mixed = np.einsum("hij,jhd->ihd", shares, v).reshape(tokens, -1)
    return linear(mixed, f"{prefix}.o_proj")


def forward(config, weights, ids):
    """Logits [tokens, vocabulary]."""
    def linear(x, name):
        return x @ weights[f"{name}.weight"].T + weights.get(f"{name}.bias", 0.0)

    epsilon = config["rms_norm_eps"]
    per_position, scale = frequencies(config)
    angles = np.arange(len(ids))[:, None] * per_position
    x = weights["model.embed_tokens.weight"][ids]
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}"
        h = norm(x, weights[f"{prefix}.input_layernorm.weight"], epsilon)
        x = x + attention(h, linear, weights, f"{prefix}.self_attn", config, angles, scale)
        h = norm(x, weights[f"{prefix}.post_attention_layernorm.weight"], epsilon)
        gate = linear(h, f"{prefix}.mlp.gate_proj")
        up = linear(h, f"{prefix}.mlp.up_proj")
        x = x + linear(gate / (1 + np.exp(-gate)) * up, f"{prefix}.mlp.down_proj")
    head = weights.get("lm_head.weight", weights["model.embed_tokens.weight"])
    return norm(x, weights["model.norm.weight"], epsilon) @ head.T


def check(folder):
    """The largest difference of any logit or, worse than any, a wrong greedy token."""
    config = json.loads((folder / "config.json").read_text())
    golden = read_safetensors(folder / "golden.safetensors")
    weights = read_weights(folder)
    ids, greedy = golden["input_ids"].astype(int), golden["greedy"].astype(int)
    logits = forward(config, weights, np.concatenate([ids, greedy[:-1]]))
    if not np.array_equal(logits[len(ids) - 1:].argmax(-1), greedy):
        return math.inf
    return np.abs(logits[:len(ids)] - golden["logits"]).max()


def main():
    worst = 0.0
    for folder in sorted((HERE / "models").iterdir()):
        if (folder / "adapter_config.json").exists() or (folder / "model.gguf").exists():
            continue
        difference = check(folder)
        worst = max(worst, difference)
        print(f"{folder.name}: {difference:.2e}")
    sys.exit(int(worst > TOLERANCE))


if __name__ == "__main__":
    main()

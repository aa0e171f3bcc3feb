"""A Llama decoder whose attention is an argument, for models/quire-19m and models/quire-135m."""

import json
import pathlib

import torch
import torch.nn.functional as F


def load_weights(folder, base_gguf):
    """Tensors by their Hugging Face names; with base_gguf the folder is an adapter to it."""
    if base_gguf is None:
        from safetensors.torch import load_file
        return load_file(folder / "model.safetensors")
    from peft import PeftModel
    from transformers import AutoModelForCausalLM
    base = AutoModelForCausalLM.from_pretrained(base_gguf.parent, gguf_file=base_gguf.name,
                                                dtype=torch.float32)
    return PeftModel.from_pretrained(base, folder).merge_and_unload().state_dict()


def norm(x, weight, eps):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight


def rotate(x, cos, sin):
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


class Model:
    def __init__(self, folder, base_gguf=None, device="cuda"):
        folder = pathlib.Path(folder)
        config = json.loads((folder / "config.json").read_text())
        self.layers = config["num_hidden_layers"]
        self.heads = config["num_attention_heads"]
        self.kv_heads = config["num_key_value_heads"]
        self.head_dim = config["head_dim"]
        self.theta, self.eps = config["rope_theta"], config["rms_norm_eps"]
        self.device = device
        weights = load_weights(folder, base_gguf and pathlib.Path(base_gguf))
        self.weights = {name: w.to(device).float() for name, w in weights.items()}
        self.weights16 = {name: w.bfloat16() for name, w in self.weights.items()}

    def linear(self, x, name):
        return F.linear(x.bfloat16(), self.weights16[name]).float()

    def rope(self, n):
        steps = torch.arange(0, self.head_dim, 2, device=self.device).double()
        angle = (torch.arange(n, device=self.device).double()[:, None]
                 * self.theta ** (-steps / self.head_dim))
        return angle.cos().float(), angle.sin().float()

    def hidden(self, ids, attend):
        """ids [n] -> [n, E] after the final norm. attend(layer, q [H, n, D], k, v [G, n, D])
        -> [H, n, D]; all float32, with bfloat16 values."""
        n = len(ids)
        x = self.weights["model.embed_tokens.weight"][ids]
        cos, sin = self.rope(n)

        def heads(y, name, count):
            return self.linear(y, name).view(n, count, self.head_dim).transpose(0, 1)

        for layer in range(self.layers):
            p = f"model.layers.{layer}."
            y = norm(x, self.weights[p + "input_layernorm.weight"], self.eps)
            q = rotate(heads(y, p + "self_attn.q_proj.weight", self.heads), cos, sin)
            k = rotate(heads(y, p + "self_attn.k_proj.weight", self.kv_heads), cos, sin)
            v = heads(y, p + "self_attn.v_proj.weight", self.kv_heads)
            out = attend(layer, *(t.bfloat16().float() for t in (q, k, v)))
            x = x + self.linear(out.transpose(0, 1).reshape(n, -1),
                                p + "self_attn.o_proj.weight")
            y = norm(x, self.weights[p + "post_attention_layernorm.weight"], self.eps)
            gate = F.silu(self.linear(y, p + "mlp.gate_proj.weight"))
            x = x + self.linear(gate * self.linear(y, p + "mlp.up_proj.weight"),
                                p + "mlp.down_proj.weight")
        return norm(x, self.weights["model.norm.weight"], self.eps)

    def logits(self, hidden):
        return self.linear(hidden, "model.embed_tokens.weight")


def dense(_, q, k, v):
    share = q.shape[0] // k.shape[0]
    out = F.scaled_dot_product_attention(
        q[None].bfloat16(), k.repeat_interleave(share, 0)[None].bfloat16(),
        v.repeat_interleave(share, 0)[None].bfloat16(), is_causal=True)
    return out[0].float()


def dense_rows(q, k, v, begin, end):
    """Exact attention of rows [begin, end) in float32."""
    groups, share = k.shape[0], q.shape[0] // k.shape[0]
    rows = q[:, begin:end].reshape(groups, share, end - begin, -1)
    scores = torch.einsum("grtd,gnd->grtn", rows, k[:, :end]) * q.shape[-1] ** -.5
    late = (torch.arange(end, device=q.device)
            > torch.arange(begin, end, device=q.device)[:, None])
    scores.masked_fill_(late, -torch.inf)
    out = torch.einsum("grtn,gnd->grtd", scores.softmax(-1), v[:, :end])
    return out.reshape(q.shape[0], end - begin, -1)

#include "core/model/layer_parts.h"

#include "absl/strings/str_cat.h"

namespace quire {

LayerParts PartsOf(const ModelConfig& c, int32_t layer) {
  const int64_t q = int64_t{c.num_heads} * c.head_dim;
  const int64_t kv = int64_t{c.num_kv_heads} * c.head_dim;
  const bool qkv_bias = c.qkv_bias || c.attention_bias;
  const std::string p = absl::StrCat("model.layers.", layer, ".");
  const std::string attention = p + "self_attn.";
  const std::string mlp = p + "mlp.";
  return {.attention_norm = p + "input_layernorm.weight",
          .mlp_norm = p + "post_attention_layernorm.weight",
          .q_norm = attention + "q_norm.weight",
          .k_norm = attention + "k_norm.weight",
          .qkv = {{attention + "q_proj", q, qkv_bias},
                  {attention + "k_proj", kv, qkv_bias},
                  {attention + "v_proj", kv, qkv_bias}},
          .output = {{attention + "o_proj", c.hidden_size, c.attention_bias}},
          .gate_up = {{mlp + "gate_proj", c.intermediate_size, c.mlp_bias},
                      {mlp + "up_proj", c.intermediate_size, c.mlp_bias}},
          .down = {{mlp + "down_proj", c.hidden_size, c.mlp_bias}}};
}

}  // namespace quire

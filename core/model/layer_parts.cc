#include "core/model/layer_parts.h"

#include <algorithm>

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

int64_t WeightBytesOf(const ModelConfig& c, int64_t bytes_per_value) {
  const LayerParts parts = PartsOf(c, 0);
  const auto values = [](const std::vector<WeightMap::Part>& joined, int64_t columns) {
    const bool bias = std::any_of(joined.begin(), joined.end(),
                                  [](const WeightMap::Part& part) { return part.bias; });
    int64_t rows = 0;
    for (const WeightMap::Part& part : joined) rows += part.rows;
    return rows * (columns + (bias ? 1 : 0));
  };
  const int64_t hidden = c.hidden_size;
  const int64_t layer = values(parts.qkv, hidden) +
                        values(parts.output, int64_t{c.num_heads} * c.head_dim) +
                        values(parts.gate_up, hidden) +
                        values(parts.down, c.intermediate_size);
  const int64_t norms =
      c.num_layers * (2 * hidden + (c.qk_norm ? 2 * c.head_dim : 0)) + hidden;
  const int64_t embeddings = (c.tie_embeddings ? 1 : 2) * int64_t{c.vocab_size} * hidden;
  return (embeddings + c.num_layers * layer) * bytes_per_value +
         norms * int64_t{sizeof(float)};
}

}  // namespace quire

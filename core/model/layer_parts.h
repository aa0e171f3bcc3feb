#pragma once

#include <initializer_list>
#include <string>
#include <vector>

#include "ATen/core/Tensor.h"
#include "core/config/model_config.h"
#include "core/model/weight_map.h"

namespace quire {

// The names and parts of one layer's weights.
struct LayerParts {
  std::string attention_norm, mlp_norm, q_norm, k_norm;
  std::vector<WeightMap::Part> qkv, output, gate_up, down;
};

LayerParts PartsOf(const ModelConfig& config, int32_t layer);

// What a model's weights take with so many bytes a value; norms have 4.
int64_t WeightBytesOf(const ModelConfig& config, int64_t bytes_per_value);

// Of a decoder's weights, wherever they are: its linear layers have bytes(), and each of
// `layers` has the members that LayerParts names.
template <typename Linear, typename Layers>
int64_t WeightBytes(std::initializer_list<const Linear*> embeddings,
                    const at::Tensor& final_norm, const Layers& layers) {
  int64_t sum = static_cast<int64_t>(final_norm.nbytes());
  for (const Linear* embedding : embeddings) sum += embedding->bytes();
  for (const auto& l : layers) {
    sum += l.qkv.bytes() + l.output.bytes() + l.gate_up.bytes() + l.down.bytes();
    for (const at::Tensor* t : {&l.attention_norm, &l.mlp_norm, &l.q_norm, &l.k_norm}) {
      if (t->defined()) sum += static_cast<int64_t>(t->nbytes());
    }
  }
  return sum;
}

}  // namespace quire

#pragma once

#include <string>
#include <vector>

#include "core/config/model_config.h"
#include "core/model/weight_map.h"

namespace quire {

// The names and parts of one layer's weights.
struct LayerParts {
  std::string attention_norm, mlp_norm, q_norm, k_norm;
  std::vector<WeightMap::Part> qkv, output, gate_up, down;
};

LayerParts PartsOf(const ModelConfig& config, int32_t layer);

}  // namespace quire

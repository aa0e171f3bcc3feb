#pragma once

#include <string>
#include <vector>

#include "core/config/model_config.h"
#include "core/model/cuda_kv_cache.h"
#include "core/model/cuda_weights.h"

namespace quire::cuda_step {

// Names of the shapes that there are: of published models, whose weights play no part.
std::vector<std::string> ShapeNames();
// REQUIRES: one of these. Any length up to a million tokens is taken.
ModelConfig ShapeOf(const std::string& name);

// Normal weights of a standard deviation with which activations neither grow nor vanish;
// made on the device.
CudaWeights RandomWeights(const ModelConfig& config, at::Device device);

// Normal keys and values in every place of every layer.
void FillRandomly(const ModelConfig& config, const CudaKvCache& cache);

}  // namespace quire::cuda_step

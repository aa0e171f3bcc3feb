#pragma once

#include <vector>

#include "ATen/core/Tensor.h"
#include "absl/status/statusor.h"
#include "core/config/model_config.h"
#include "core/model/cuda_linear.h"
#include "core/weights/weight_source.h"

namespace quire {

// A decoder's weights on a GPU: matrices bfloat16, vectors float32. Immutable once made.
struct CudaWeights {
  struct Layer {
    at::Tensor attention_norm, mlp_norm;  // [E]
    at::Tensor q_norm, k_norm;            // [D], or undefined
    CudaLinear qkv, output, gate_up, down;
  };
  CudaLinear embedding;  // [vocab, E]; also the head when they are tied
  CudaLinear head;       // [vocab, E], or undefined
  at::Tensor final_norm;
  std::vector<Layer> layers;

  int64_t bytes() const;
};

// Errors are WeightMap's; those of CUDA are thrown.
absl::StatusOr<CudaWeights> LoadCudaWeights(const ModelConfig& config,
                                            const WeightSource& source,
                                            at::Device device);

}  // namespace quire

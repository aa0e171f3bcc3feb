#pragma once

#include <cuda_runtime.h>

#include "c10/util/Exception.h"

namespace quire {

// What launches return, as the exception that LibTorch throws for its own: both are
// caught in one place (core/runner/cuda_model_runner.cc).
inline void ThrowIfError(cudaError_t error) {
  TORCH_CHECK(error == cudaSuccess, "CUDA error: ", cudaGetErrorString(error));
}

}  // namespace quire

#pragma once

#include "core/kernels/cuda/cuda_kernels.h"

namespace quire::kernels::cuda {

// LinearRows for large weights, on compute capability 9.0.
cudaError_t StreamLinear(const LinearArgs& args, cudaStream_t stream);

}  // namespace quire::kernels::cuda

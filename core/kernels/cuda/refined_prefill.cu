#include "core/kernels/cuda/prefill_workspace.cuh"
#include "core/kernels/cuda/refined_prefill.h"

namespace quire::kernels::cuda {

bool HasRefinedPrefillKernel(int32_t head_dim, int32_t share) {
  return (head_dim == 64 || head_dim == 128) && share <= kMaxRefinedPrefillShare;
}

int64_t RefinedPrefillWorkspaceBytes(int64_t begin, int32_t rows, int32_t query_heads,
                                     int32_t kv_heads, int32_t head_dim) {
  return SizesOf(begin, rows, query_heads, kv_heads, head_dim).total();
}

cudaError_t RefinedPrefill(const RefinedPrefillArgs& args, cudaStream_t stream) {
  const PrefillLaunch launch = {args, LayPrefill(args)};
  cudaError_t error = QuantisePrefill(launch, stream);
  if (error != cudaSuccess) return error;
  error = ChooseKeys(launch, stream);
  return error != cudaSuccess ? error : ReadChosen(launch, stream);
}

}  // namespace quire::kernels::cuda

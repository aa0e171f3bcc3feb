#include "core/model/cuda_kv_cache.h"

#include "ATen/ops/empty.h"
#include "c10/cuda/CUDAStream.h"
#include "core/kernels/cuda/cuda_kernels.h"
#include "core/model/cuda_check.h"

namespace quire {

CudaKvCache::CudaKvCache(const ModelConfig& config, const KvGeometry& geometry,
                         at::Device device) {
  const std::vector<int64_t> shape = {geometry.num_blocks, config.num_kv_heads,
                                      geometry.tokens_per_block, config.head_dim};
  const auto options = at::TensorOptions(at::kBFloat16).device(device);
  for (int32_t i = 0; i < config.num_layers; ++i) {
    layers_.push_back({at::empty(shape, options), at::empty(shape, options)});
  }
}

void CudaKvCache::Copy(BlockId from, BlockId to) {
  if (from == to) return;
  const cudaStream_t stream = c10::cuda::getCurrentCUDAStream();
  for (const Layer& layer : layers_) {
    for (const at::Tensor& side : {layer.k, layer.v}) {
      ThrowIfError(kernels::cuda::CopyBlock(
          static_cast<kernels::cuda::Bf16*>(side.data_ptr()), static_cast<int64_t>(from),
          static_cast<int64_t>(to), side.stride(0), stream));
    }
  }
}

int64_t CudaKvCache::bytes() const {
  int64_t sum = 0;
  for (const Layer& l : layers_) sum += static_cast<int64_t>(l.k.nbytes() + l.v.nbytes());
  return sum;
}

}  // namespace quire

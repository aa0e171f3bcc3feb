#include "core/model/cuda_kv_cache.h"

#include "ATen/ops/empty.h"
#include "c10/cuda/CUDAStream.h"
#include "core/kernels/cuda/cuda_kernels.h"
#include "core/kernels/cuda/refined.h"
#include "core/model/cuda_check.h"

namespace quire {

bool CudaKvCache::HasIndex(const ModelConfig& c) {
  return c.num_heads / c.num_kv_heads <= kernels::cuda::kMaxRefinedDecodeShare;
}

double CudaKvCache::IndexShare(const ModelConfig& c) {
  if (!HasIndex(c)) return 0;
  return static_cast<double>(kernels::cuda::IndexPageBytes(c.head_dim)) /
         (4.0 * kernels::cuda::kPageTokens * c.head_dim);
}

CudaKvCache::CudaKvCache(const ModelConfig& config, const KvGeometry& geometry,
                         at::Device device)
    : indexed_(geometry.num_blocks, 0) {
  const std::vector<int64_t> shape = {geometry.num_blocks, config.num_kv_heads,
                                      geometry.tokens_per_block, config.head_dim};
  const auto options = at::TensorOptions(at::kBFloat16).device(device);
  for (int32_t i = 0; i < config.num_layers; ++i) {
    layers_.push_back({at::empty(shape, options), at::empty(shape, options)});
    if (!HasIndex(config)) continue;
    layers_.back().index = at::empty({geometry.num_blocks, config.num_kv_heads,
                                      kernels::cuda::IndexPageBytes(config.head_dim)},
                                     options.dtype(at::kByte));
  }
}

void CudaKvCache::Copy(BlockId from, BlockId to) {
  if (from == to) return;
  ForgetIndex(to);
  const cudaStream_t stream = c10::cuda::getCurrentCUDAStream();
  for (const Layer& layer : layers_) {
    for (const at::Tensor& side : {layer.k, layer.v}) {
      ThrowIfError(kernels::cuda::CopyBlock(
          static_cast<kernels::cuda::Bf16*>(side.data_ptr()), static_cast<int64_t>(from),
          static_cast<int64_t>(to), side.stride(0), stream));
    }
  }
}

std::vector<int32_t> CudaKvCache::TakeUnindexed(absl::Span<const BlockId> blocks) {
  std::vector<int32_t> missing;
  for (const BlockId block : blocks) {
    uint8_t& indexed = indexed_[static_cast<size_t>(block)];
    if (indexed == 0) missing.push_back(static_cast<int32_t>(block));
    indexed = 1;
  }
  return missing;
}

int64_t CudaKvCache::bytes() const {
  int64_t sum = 0;
  for (const Layer& l : layers_) sum += static_cast<int64_t>(l.k.nbytes() + l.v.nbytes());
  return sum;
}

}  // namespace quire

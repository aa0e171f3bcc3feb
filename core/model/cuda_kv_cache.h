#pragma once

#include <vector>

#include "ATen/core/Tensor.h"
#include "absl/types/span.h"
#include "core/config/model_config.h"
#include "core/kv/block_pool.h"

namespace quire {

// The memory of every layer's keys and values on a GPU, and of the index that refined
// attention makes of them. Who may use which block is BlockPool's affair. Not
// thread-safe.
class CudaKvCache {
 public:
  CudaKvCache(const ModelConfig& config, const KvGeometry& geometry, at::Device device);

  struct Layer {
    at::Tensor k, v;   // [num_blocks, G, kPageTokens, D] bfloat16
    at::Tensor index;  // [num_blocks, G, IndexPageBytes] bytes, or undefined
  };
  const Layer& layer(int32_t index) const { return layers_[index]; }

  // Whether there is an index: there are kernels for it.
  static bool HasIndex(const ModelConfig& config);
  // Of the index, for each byte of keys and values.
  static double IndexShare(const ModelConfig& config);

  // A block whose first token is written anew holds a new page.
  void ForgetIndex(BlockId block) { indexed_[static_cast<size_t>(block)] = 0; }
  // Of these blocks those that have no index yet; they count as indexed from now on.
  std::vector<int32_t> TakeUnindexed(absl::Span<const BlockId> blocks);

  // Keys and values of every layer.
  void Copy(BlockId from, BlockId to);
  int64_t bytes() const;

 private:
  std::vector<Layer> layers_;
  std::vector<uint8_t> indexed_;  // [num_blocks] in all layers
};

}  // namespace quire

#pragma once

#include <vector>

#include "ATen/core/Tensor.h"
#include "core/config/model_config.h"
#include "core/kv/block_pool.h"

namespace quire {

// The memory of every layer's keys and values on a GPU. Who may use which block is
// BlockPool's affair. Not thread-safe.
class CudaKvCache {
 public:
  CudaKvCache(const ModelConfig& config, const KvGeometry& geometry, at::Device device);

  struct Layer {
    at::Tensor k, v;  // [num_blocks, G, kPageTokens, D] bfloat16
  };
  const Layer& layer(int32_t index) const { return layers_[index]; }

  // Keys and values of every layer.
  void Copy(BlockId from, BlockId to);
  int64_t bytes() const;

 private:
  std::vector<Layer> layers_;
};

}  // namespace quire

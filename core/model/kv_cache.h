#pragma once

#include <vector>

#include "core/config/model_config.h"
#include "core/kernels/kernels.h"
#include "core/kv/block_pool.h"

namespace quire {

// The memory of every layer's keys and values. Who may use which block is BlockPool's
// affair. Not thread-safe. Memory is taken from the system when a block is first written.
class KvCache {
 public:
  KvCache(const ModelConfig& config, const KvGeometry& geometry, at::ScalarType type);

  kernels::PagedKv& layer(int32_t index) { return layers_[index]; }
  int64_t bytes() const;

 private:
  std::vector<kernels::PagedKv> layers_;
};

}  // namespace quire

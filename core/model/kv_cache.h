#pragma once

#include <vector>

#include "core/config/model_config.h"
#include "core/kernels/kernels.h"
#include "core/kernels/refined.h"
#include "core/kv/block_pool.h"

namespace quire {

// The memory of every layer's keys and values, and of the groups and index that refined
// attention makes of them. Who may use which block is BlockPool's affair. Not
// thread-safe. Memory is taken from the system when a block is first written.
class KvCache {
 public:
  KvCache(const ModelConfig& config, const KvGeometry& geometry, at::ScalarType type);

  kernels::PagedKv& layer(int32_t index) { return layers_[index]; }
  // Null if blocks or heads are not what refined attention takes (kGroupTokens,
  // kMaxRefinedShare, head sizes that 8 divides): then nothing is read sparsely.
  kernels::PageIndex* index(int32_t layer);

  // Keys and values of every layer. The copy's group and index are made anew when its
  // page is complete.
  void Copy(BlockId from, BlockId to);

  int64_t bytes() const;        // of keys and values
  int64_t index_bytes() const;  // of groups and index, once all blocks have them

 private:
  std::vector<kernels::PagedKv> layers_;
  std::vector<kernels::PageIndex> indices_;
};

}  // namespace quire

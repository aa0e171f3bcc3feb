#include "core/model/kv_cache.h"

#include "ATen/ops/empty.h"

namespace quire {

KvCache::KvCache(const ModelConfig& config, const KvGeometry& geometry,
                 at::ScalarType type) {
  const std::vector<int64_t> shape = {geometry.num_blocks, config.num_kv_heads,
                                      geometry.tokens_per_block, config.head_dim};
  for (int32_t i = 0; i < config.num_layers; ++i) {
    layers_.push_back({at::empty(shape, type), at::empty(shape, type)});
    if (geometry.tokens_per_block != kGroupTokens || config.head_dim % 8 != 0 ||
        config.num_heads / config.num_kv_heads > kernels::kMaxRefinedShare) {
      continue;
    }
    indices_.push_back(kernels::PageIndex::Make(geometry.num_blocks, config.num_kv_heads,
                                                config.head_dim));
  }
}

kernels::PageIndex* KvCache::index(int32_t layer) {
  return indices_.empty() ? nullptr : &indices_[layer];
}

void KvCache::Copy(BlockId from, BlockId to) {
  const auto source = static_cast<int64_t>(from), target = static_cast<int64_t>(to);
  if (source == target) return;
  for (kernels::PagedKv& layer : layers_) {
    layer.k[target].copy_(layer.k[source]);
    layer.v[target].copy_(layer.v[source]);
  }
  for (kernels::PageIndex& index : indices_) index.built[target] = 0;
}

int64_t KvCache::index_bytes() const {
  int64_t sum = 0;
  for (const kernels::PageIndex& index : indices_) sum += index.bytes();
  return sum;
}

int64_t KvCache::bytes() const {
  int64_t sum = 0;
  for (const kernels::PagedKv& l : layers_) {
    sum += static_cast<int64_t>(l.k.nbytes() + l.v.nbytes());
  }
  return sum;
}

}  // namespace quire

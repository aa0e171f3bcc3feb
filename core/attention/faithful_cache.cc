#include "core/attention/faithful_cache.h"

#include "ATen/ops/empty.h"
#include "ATen/ops/index_select.h"
#include "core/base/check.h"

namespace quire {

// Row of the cache seen as [num_blocks G B, D].
int64_t FaithfulCache::PlaceOf(Position position) const {
  const int64_t tokens = kv_.block_tokens();
  const BlockId block = blocks_[position / tokens];
  QUIRE_CHECK(block != kNoBlock);
  return (static_cast<int64_t>(block) * kv_.k.size(1) + head_) * tokens +
         position % tokens;
}

at::Tensor FaithfulCache::Rows(const at::Tensor& cache, const at::Tensor& places) const {
  return at::index_select(cache.view({-1, head_dim()}), 0, places).to(at::kFloat);
}

FaithfulCache::KeysValues FaithfulCache::Read(
    absl::Span<const Position> positions) const {
  const at::Tensor places =
      at::empty({static_cast<int64_t>(positions.size())}, at::kLong);
  for (size_t i = 0; i < positions.size(); ++i) {
    places.data_ptr<int64_t>()[i] = PlaceOf(positions[i]);
  }
  return {Rows(kv_.k, places), Rows(kv_.v, places)};
}

at::Tensor FaithfulCache::Keys(Position begin, Position end) const {
  const at::Tensor places = at::empty({end - begin}, at::kLong);
  for (Position p = begin; p < end; ++p) {
    places.data_ptr<int64_t>()[p - begin] = PlaceOf(p);
  }
  return Rows(kv_.k, places);
}

}  // namespace quire

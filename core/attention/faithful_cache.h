#pragma once

#include <cstdint>

#include "ATen/core/Tensor.h"
#include "absl/types/span.h"
#include "core/kernels/kernels.h"

namespace quire {

// One sequence's keys and values of one key/value head, read token by token in float32.
// The cache and the blocks must outlive it. Thread-safe.
class FaithfulCache {
 public:
  FaithfulCache(const kernels::PagedKv& kv, absl::Span<const BlockId> blocks,
                int64_t head)
      : kv_(kv), blocks_(blocks), head_(head) {}

  struct KeysValues {
    at::Tensor keys, values;  // [n, D] float32
  };
  KeysValues Read(absl::Span<const Position> positions) const;
  at::Tensor Keys(Position begin, Position end) const;  // [end - begin, D] float32

  int64_t head() const { return head_; }
  int64_t head_dim() const { return kv_.k.size(3); }
  // Of one token's key, or value, in the cache.
  int64_t row_bytes() const {
    return head_dim() * static_cast<int64_t>(kv_.k.element_size());
  }

 private:
  int64_t PlaceOf(Position position) const;
  at::Tensor Rows(const at::Tensor& cache, const at::Tensor& places) const;

  const kernels::PagedKv& kv_;
  const absl::Span<const BlockId> blocks_;
  const int64_t head_;
};

}  // namespace quire

#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "core/base/types.h"

namespace quire {

class BlockPool;

// How the key/value cache is cut. Block b holds the positions [i * tokens_per_block, ...)
// of the sequence whose block table has b at index i.
struct KvGeometry {
  int32_t num_blocks = 0;
  int32_t tokens_per_block = 64;
  int64_t capacity_tokens() const { return int64_t{num_blocks} * tokens_per_block; }
  int32_t BlocksFor(int64_t tokens) const {
    return static_cast<int32_t>((tokens + tokens_per_block - 1) / tokens_per_block);
  }
};

// Blocks held by one sequence; gives them back when destroyed. Move-only. Not
// thread-safe.
class BlockLease {
 public:
  BlockLease() = default;
  BlockLease(BlockLease&& other) noexcept;
  BlockLease& operator=(BlockLease&& other) noexcept;
  ~BlockLease();

  absl::Span<const BlockId> blocks() const { return blocks_; }

  // Extends to `count` blocks in all, or leaves *this unchanged and returns
  // kResourceExhausted with both numbers. Never shrinks.
  absl::Status GrowTo(int32_t count);

  // Gives one block back; kNoBlock holds its place, which is not filled again. REQUIRES:
  // blocks()[index] is a block.
  void Drop(int32_t index);

 private:
  friend class BlockPool;
  void GiveBack(BlockId block);
  BlockPool* pool_ = nullptr;
  std::vector<BlockId> blocks_;
};

// Accounts for a fixed number of cache blocks; holds no cache memory itself. Gives out
// the smallest free ids first, so that a sequence alone gets consecutive blocks. Not
// thread-safe: owned by the engine thread. Must outlive its leases.
class BlockPool {
 public:
  explicit BlockPool(KvGeometry geometry);
  ~BlockPool();
  BlockPool(const BlockPool&) = delete;
  BlockPool& operator=(const BlockPool&) = delete;

  BlockLease Lease();  // empty lease bound to this pool
  int32_t free_blocks() const;
  const KvGeometry& geometry() const { return geometry_; }

 private:
  friend class BlockLease;
  KvGeometry geometry_;
  std::vector<BlockId> free_;  // a min-heap by id
};

}  // namespace quire

#pragma once

#include <cstdint>
#include <functional>
#include <list>
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
  friend bool operator==(const KvGeometry&, const KvGeometry&) = default;
};

// A sequence's block table; gives the blocks back when destroyed, the last one first, so
// that of a page chain that stays cached the end is evicted before the beginning.
// Move-only. Not thread-safe.
class BlockLease {
 public:
  BlockLease() = default;
  BlockLease(BlockLease&& other) noexcept;
  BlockLease& operator=(BlockLease&& other) noexcept;
  ~BlockLease();

  absl::Span<const BlockId> blocks() const { return blocks_; }

  // Extends to `count` blocks in all, or leaves *this unchanged and returns
  // kResourceExhausted with both numbers. Never shrinks. The new blocks are nobody
  // else's; cached pages are evicted for them, least recently used first.
  absl::Status GrowTo(int32_t count);

  // Appends a block that others hold or that is cached. It must not be written to.
  // REQUIRES: the block is held or cached.
  void Share(BlockId block);

  // Gives one block back; kNoBlock holds its place, which is not filled again. REQUIRES:
  // blocks()[index] is a block.
  void Drop(int32_t index);

  // Blocks that would be free if this were destroyed: nobody else holds them. O(blocks).
  int32_t unshared_blocks() const;

 private:
  friend class BlockPool;
  BlockPool* pool_ = nullptr;
  std::vector<BlockId> blocks_;
};

// Accounts for a fixed number of cache blocks; holds no cache memory itself. A block is
// held by a number of leases; it may also be cached: then it keeps its content when
// nobody holds it any more, until its memory is needed. Gives out empty blocks first, the
// smallest ids first, so that a sequence alone gets consecutive blocks. Not thread-safe:
// owned by the engine thread. Must outlive its leases.
class BlockPool {
 public:
  explicit BlockPool(KvGeometry geometry);
  ~BlockPool();
  BlockPool(const BlockPool&) = delete;
  BlockPool& operator=(const BlockPool&) = delete;

  BlockLease Lease();  // empty lease bound to this pool

  int32_t free_blocks() const;    // that no lease holds: empty ones and cached ones
  int32_t cached_blocks() const;  // that are cached, held or not
  int32_t holders(BlockId block) const;
  const KvGeometry& geometry() const { return geometry_; }

  // The block keeps its content from now on. REQUIRES: held, not cached.
  void SetCached(BlockId block);
  // Its content is worth nothing any more. REQUIRES: cached.
  void ClearCached(BlockId block);
  // A cached block was wanted again: if nobody holds it, it becomes the last to be
  // evicted. REQUIRES: cached.
  void Touch(BlockId block);
  // Called with each cached block whose memory is taken, before it is given out; it is
  // not cached any more. Must not call the pool.
  void set_on_evict(std::function<void(BlockId)> on_evict);

 private:
  friend class BlockLease;
  struct Block {
    int32_t holders = 0;
    bool cached = false;
    std::list<BlockId>::iterator place;  // in evictable_, if cached and not held
  };
  size_t IndexOf(BlockId block) const;  // REQUIRES: one of this pool's ids
  BlockId Take();                       // REQUIRES: free_blocks() > 0
  void Hold(BlockId block);
  void GiveBack(BlockId block);
  void PutEmpty(BlockId block);

  KvGeometry geometry_;
  std::vector<Block> blocks_;
  std::vector<BlockId> empty_;    // neither held nor cached: a min-heap by id
  std::list<BlockId> evictable_;  // cached, not held; least recently used first
  int32_t cached_ = 0;
  std::function<void(BlockId)> on_evict_;
};

}  // namespace quire

#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/types/span.h"
#include "core/base/types.h"
#include "core/kv/block_pool.h"

namespace quire {

// Pages of keys and values that later sequences may begin with. A page's content is all
// that its keys and values depend on: the pages before it, its own tokens, and a
// `variant` (how its rows were read, see AttentionVariant in core/engine). Contents are
// found by hash and compared in full, so a collision costs time and never mixes texts up.
// Pages are cut at tokens_per_block; the last one of a text may be shorter.
//
// Chains hang from a root, one a namespace: sequences of different roots share nothing.
// Least recently used pages go first (BlockPool). Not thread-safe: the engine thread's.
class PrefixCache {
 public:
  // A place in a chain: a root, or a page that was added or found.
  struct Place {
    uint64_t page = 0;
  };

  struct Page {
    absl::Span<const TokenId> tokens;  // 1 .. tokens_per_block
    uint64_t variant = 0;
  };

  struct Found {
    std::vector<BlockId> blocks;  // of the leading whole pages, in order
    Place place;                  // behind them
    // A page of the same variant that goes on with the same `tail_tokens` tokens, and
    // then differs or is not wanted to its end: to be copied before it is written to.
    // kNoBlock: none.
    BlockId tail = kNoBlock;
    int32_t tail_tokens = 0;
    int64_t tokens = 0;  // in whole pages and tail together
  };

  // The pool must outlive this and its on_evict is this cache's from now on.
  explicit PrefixCache(BlockPool& pool);
  ~PrefixCache();

  // Where a namespace's chains begin. Any number may be used; a root costs nothing.
  static Place Root(uint64_t name);

  // The longest known beginning of `pages`, of at most max_tokens tokens. Takes nothing:
  // share the blocks before the pool is asked for others.
  Found Find(Place root, absl::Span<const Page> pages, int64_t max_tokens) const;

  // The block now holds this page, behind `place`. If the same content is known already
  // the block stays the sequence's own. A page that is a beginning of another, or has one
  // that is, may stand beside it. REQUIRES: a lease holds the block; it is not cached.
  Place Add(Place place, const Page& page, BlockId block);

  int64_t pages() const;
  int64_t evicted_pages() const;  // since the start

 private:
  struct Rep;
  std::unique_ptr<Rep> rep_;
};

}  // namespace quire

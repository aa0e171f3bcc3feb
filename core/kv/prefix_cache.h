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
// `variant` (how its rows were read, see AttentionVariant in core/engine). The pages
// behind a place are found by hash, their tokens are compared in full: a collision costs
// time and never mixes texts up. Pages are cut at tokens_per_block; the last one of a
// text may be shorter.
//
// Chains hang from a root, one a namespace: sequences of different roots share nothing.
// Least recently used pages go first (BlockPool). A page that stood behind one that went
// is never found again; it goes in its turn. Not thread-safe: the engine thread's.
class PrefixCache {
 public:
  // A place in a chain: a root, or a page that was added or found.
  struct Place {
    uint64_t page = 0;  // never given twice; 0: the root
    uint64_t root = 0;  // the namespace
    friend bool operator==(const Place&, const Place&) = default;
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

  // The pool must outlive this and its on_evict is this cache's from now on. At the end
  // all pages are forgotten; who holds their blocks keeps them.
  explicit PrefixCache(BlockPool& pool);
  ~PrefixCache();

  // Where a namespace's chains begin. Any number may be used; a root costs nothing.
  static Place Root(uint64_t name);

  // The longest known beginning of `pages`, of at most max_tokens tokens. Takes nothing:
  // share the blocks before the pool is asked for others, a tail until it is copied.
  // Time: O(tokens), and a factor of log(pages behind the same place).
  Found Find(Place root, absl::Span<const Page> pages, int64_t max_tokens) const;

  // The block now holds this page, behind `place`: a root or a whole page. If the same
  // content is known already, in a block that is held, this block stays the sequence's
  // own; in one that nobody holds, this block stands in for it and that one becomes
  // empty, so do this before Find or after Share, not between. A page that is a beginning
  // of another, or has one that is, may stand beside it. REQUIRES: a lease holds the
  // block; it is not cached.
  Place Add(Place place, const Page& page, BlockId block);

  int64_t pages() const;
  int64_t evicted_pages() const;  // since the start

 private:
  struct Rep;
  std::unique_ptr<Rep> rep_;
};

}  // namespace quire

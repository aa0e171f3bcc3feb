// A random walk of sequences over a pool and its prefix cache, next to a plain model of
// both that scans everything: which block is given out, which page is found, what is
// evicted and in which order must be the same at every step. What each block holds is
// noted apart from the model, by what would have been written to it.

#include <algorithm>
#include <map>
#include <optional>
#include <random>
#include <set>
#include <utility>
#include <vector>

#include "core/kv/block_pool.h"
#include "core/kv/prefix_cache.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace quire {
namespace {

using ::testing::Each;

constexpr int32_t kBlocks = 24;
constexpr int32_t kPageTokens = 3;
constexpr size_t kMostSequences = 9;

using Text = std::vector<TokenId>;
using Place = PrefixCache::Place;

int32_t Id(BlockId block) { return static_cast<int32_t>(block); }

int64_t Common(const Text& a, const Text& b) {
  int64_t count = 0;
  const int64_t most = static_cast<int64_t>(std::min(a.size(), b.size()));
  while (count < most && a[count] == b[count]) ++count;
  return count;
}

struct ModelPage {
  Place parent;
  uint64_t variant;
  Text tokens;
  uint64_t serial;
};

// Blocks and the pages in them, as vectors that are searched from end to end.
class Model {
 public:
  int32_t TakeOne() {
    int32_t block = 0;
    while (block < kBlocks && (holders[block] > 0 || page[block])) ++block;
    if (block == kBlocks) {
      block = unheld.front();
      unheld.erase(unheld.begin());
      const uint64_t serial = std::exchange(page[block], std::nullopt)->serial;
      ++evicted;
      orphaned += std::ranges::count_if(
          page, [&](const auto& p) { return p && p->parent.page == serial; });
    }
    holders[block] = 1;
    return block;
  }
  void Hold(int32_t block) {
    if (holders[block]++ == 0) std::erase(unheld, block);
  }
  void GiveBack(int32_t block) {
    if (--holders[block] == 0 && page[block]) unheld.push_back(block);
  }
  void Touch(int32_t block) {
    if (std::erase(unheld, block) > 0) unheld.push_back(block);
  }
  // The block of a page with at least this much in common; kBlocks: none.
  int32_t Find(Place parent, uint64_t variant, const Text& tokens, int64_t common) const {
    int32_t block = 0;
    while (block < kBlocks && !(page[block] && page[block]->parent == parent &&
                                page[block]->variant == variant &&
                                Common(page[block]->tokens, tokens) >= common)) {
      ++block;
    }
    return block;
  }
  int32_t FindSame(const ModelPage& wanted) const {
    for (int32_t block = 0; block < kBlocks; ++block) {
      if (page[block] && page[block]->parent == wanted.parent &&
          page[block]->variant == wanted.variant &&
          page[block]->tokens == wanted.tokens) {
        return block;
      }
    }
    return kBlocks;
  }
  int32_t free() const { return static_cast<int32_t>(std::ranges::count(holders, 0)); }
  int32_t pages() const {
    return static_cast<int32_t>(
        std::ranges::count_if(page, [](const auto& p) { return p.has_value(); }));
  }

  std::vector<int32_t> holders = std::vector<int32_t>(kBlocks);
  std::vector<std::optional<ModelPage>> page{kBlocks};
  std::vector<int32_t> unheld;  // cached ones, in the order in which they go
  int64_t evicted = 0;
  int64_t orphaned = 0;  // pages whose place went before them
};

// What a page's rows depend on.
struct Content {
  uint64_t root = 0;
  std::vector<uint64_t> variants;  // of the pages up to and with this one
  Text text;                       // from the beginning of the sequence
  friend bool operator==(const Content&, const Content&) = default;
};

struct Sequence {
  BlockLease lease;
  Place place;  // behind the whole pages that are computed
  uint64_t root = 0;
  Text text;
  std::vector<uint64_t> variants;
  size_t pages_done = 0;
  bool over = false;  // its last page was short: nothing goes behind it
};

class Walk {
 public:
  explicit Walk(uint32_t seed) : random_(seed) {}

  void Step() {
    const size_t at = sequences_.empty() ? 0 : Random(sequences_.size());
    const uint32_t choice = Random(16);
    if (choice < 3) {
      if (sequences_.size() < kMostSequences) Start();
    } else if (choice < 4) {
      Sequence waiting = NewSequence();
      Touch(FindAsExpected(waiting, RandomLimit(waiting)));
    } else if (sequences_.empty()) {
      return;
    } else if (choice < 12) {
      ComputePage(sequences_[at]);
    } else if (choice < 13) {
      DropOne(sequences_[at].lease);
    } else if (choice < 14) {
      std::swap(sequences_[at], sequences_[Random(sequences_.size())]);
    } else {
      End(at);
    }
  }

  void CheckAll() {
    std::vector<int32_t> holders(kBlocks);
    for (const Sequence& sequence : sequences_) {
      int32_t alone = 0;
      for (const BlockId block : sequence.lease.blocks()) {
        if (block == kNoBlock) continue;
        ++holders[Id(block)];
        alone += pool_.holders(block) == 1 ? 1 : 0;
      }
      ASSERT_EQ(sequence.lease.unshared_blocks(), alone);
    }
    int32_t held = 0;
    for (int32_t id = 0; id < kBlocks; ++id) {
      ASSERT_EQ(pool_.holders(BlockId{id}), holders[id]);
      ASSERT_EQ(model_.holders[id], holders[id]);
      held += holders[id] > 0 ? 1 : 0;
      // Two sequences meet in a block only where the cache has led the second one.
      ASSERT_TRUE(holders[id] < 2 || shared_.contains(id)) << id;
      if (holders[id] == 0) shared_.erase(id);
    }
    ASSERT_EQ(pool_.free_blocks() + held, kBlocks);
    ASSERT_EQ(pool_.free_blocks(), model_.free());
    ASSERT_EQ(pool_.cached_blocks(), model_.pages());
    ASSERT_EQ(cache_->pages(), model_.pages());
    ASSERT_EQ(cache_->evicted_pages(), model_.evicted);
  }

  void Finish() {
    while (!sequences_.empty()) End(0);
    CheckAll();
    ASSERT_EQ(pool_.free_blocks(), kBlocks);
    cache_.reset();
    ASSERT_EQ(pool_.cached_blocks(), 0);
    BlockLease all = pool_.Lease();
    ASSERT_TRUE(all.GrowTo(kBlocks).ok());
    for (int32_t id = 0; id < kBlocks; ++id) ASSERT_EQ(all.blocks()[id], BlockId{id});
  }

  int64_t evicted() const { return model_.evicted; }
  int64_t orphaned() const { return model_.orphaned; }
  int64_t whole_pages() const { return whole_pages_; }
  int64_t tails() const { return tails_; }
  int64_t duplicates() const { return duplicates_; }
  int64_t moved() const { return moved_; }
  int64_t refusals() const { return refusals_; }

 private:
  uint32_t Random(size_t below) { return static_cast<uint32_t>(random_() % below); }
  int64_t RandomLimit(const Sequence& sequence) {
    return static_cast<int64_t>(sequence.text.size()) + 1 - Random(4);
  }

  // One of three texts that begin alike, changed in at most one place.
  Sequence NewSequence() {
    Sequence sequence;
    sequence.root = Random(2);
    sequence.place = PrefixCache::Root(sequence.root);
    const uint32_t which = Random(3);
    for (uint32_t i = 0; i < 3 + Random(24); ++i) {
      sequence.text.push_back(static_cast<TokenId>(i < 7 ? i : i * (which + 1)));
    }
    if (Random(2) == 0) sequence.text[Random(sequence.text.size())] = 99;
    sequence.variants.assign(sequence.text.size() / kPageTokens + 1, 0);
    if (Random(4) == 0) sequence.variants[Random(sequence.variants.size())] = 1;
    return sequence;
  }

  static PrefixCache::Page PageAt(const Sequence& sequence, size_t index) {
    return {absl::MakeSpan(sequence.text).subspan(index * kPageTokens, kPageTokens),
            sequence.variants[index]};
  }
  static Content ContentOf(const Sequence& sequence, size_t page) {
    const size_t end = std::min(sequence.text.size(), (page + 1) * kPageTokens);
    return {sequence.root,
            {sequence.variants.begin(), sequence.variants.begin() + page + 1},
            {sequence.text.begin(), sequence.text.begin() + end}};
  }

  // Cache's answer, checked against the model's and against what the blocks hold.
  PrefixCache::Found FindAsExpected(const Sequence& sequence, int64_t limit) {
    std::vector<PrefixCache::Page> pages;
    for (size_t i = 0; i * kPageTokens < sequence.text.size(); ++i) {
      pages.push_back(PageAt(sequence, i));
    }
    const PrefixCache::Found found =
        cache_->Find(PrefixCache::Root(sequence.root), pages, limit);
    int64_t tokens = 0;
    Place place = PrefixCache::Root(sequence.root);
    size_t index = 0;
    for (; index < pages.size() && tokens + kPageTokens <= limit; ++index) {
      const Text wanted(pages[index].tokens.begin(), pages[index].tokens.end());
      const int32_t block = model_.Find(place, pages[index].variant, wanted, kPageTokens);
      if (block == kBlocks) break;
      EXPECT_LT(index, found.blocks.size());
      if (index >= found.blocks.size()) return found;
      EXPECT_EQ(Id(found.blocks[index]), block);
      EXPECT_EQ(contents_[block], ContentOf(sequence, index));
      place.page = model_.page[block]->serial;
      tokens += kPageTokens;
    }
    EXPECT_EQ(found.blocks.size(), index);
    EXPECT_EQ(found.place, place);
    ExpectTail(sequence, index, limit - tokens, found);
    EXPECT_EQ(found.tokens, tokens + found.tail_tokens);
    return found;
  }

  void ExpectTail(const Sequence& sequence, size_t index, int64_t limit,
                  const PrefixCache::Found& found) {
    int64_t most = 0;
    if (index * kPageTokens < sequence.text.size() && limit > 0) {
      const PrefixCache::Page page = PageAt(sequence, index);
      Text wanted(page.tokens.begin(), page.tokens.end());
      wanted.resize(std::min<size_t>(wanted.size(), limit));
      while (most < kPageTokens &&
             model_.Find(found.place, page.variant, wanted, most + 1) < kBlocks) {
        ++most;
      }
    }
    ASSERT_EQ(found.tail_tokens, most);
    ASSERT_EQ(found.tail == kNoBlock, most == 0);
    if (most == 0) return;
    const size_t known = index * kPageTokens + most;
    Content held = contents_[Id(found.tail)], wanted = ContentOf(sequence, index);
    ASSERT_GE(held.text.size(), known);
    held.text.resize(known);
    wanted.text.resize(known);
    ASSERT_EQ(held, wanted);
  }

  // As for those who wait: the end before the beginning.
  void Touch(const PrefixCache::Found& found) {
    std::vector<BlockId> blocks = found.blocks;
    if (found.tail != kNoBlock) blocks.push_back(found.tail);
    for (auto block = blocks.rbegin(); block != blocks.rend(); ++block) {
      pool_.Touch(*block);
      model_.Touch(Id(*block));
    }
  }

  // Held while it is copied.
  void CopyTail(BlockId block) {
    BlockLease lease = pool_.Lease();
    lease.Share(block);
    model_.Hold(Id(block));
    model_.GiveBack(Id(block));
  }

  void Start() {
    Sequence sequence = NewSequence();
    const PrefixCache::Found found = FindAsExpected(sequence, RandomLimit(sequence));
    sequence.lease = pool_.Lease();
    for (const BlockId block : found.blocks) {
      sequence.lease.Share(block);
      model_.Hold(Id(block));
      shared_.insert(Id(block));
    }
    if (found.tail != kNoBlock) CopyTail(found.tail);
    whole_pages_ += static_cast<int64_t>(found.blocks.size());
    tails_ += found.tail != kNoBlock ? 1 : 0;
    sequence.place = found.place;
    sequence.pages_done = found.blocks.size();
    sequence.over = sequence.pages_done * kPageTokens >= sequence.text.size();
    sequences_.push_back(std::move(sequence));
  }

  // Takes a block more, or is refused and leaves all as it was.
  bool Grow(Sequence& sequence) {
    const std::vector<BlockId> before(sequence.lease.blocks().begin(),
                                      sequence.lease.blocks().end());
    const int32_t more = 1 + static_cast<int32_t>(Random(8) == 0 ? Random(12) : 0);
    const int32_t had = static_cast<int32_t>(before.size());
    const bool fits = more <= model_.free();
    EXPECT_EQ(sequence.lease.GrowTo(had + more).ok(), fits);
    std::vector<BlockId> expected = before;
    for (int32_t i = 0; fits && i < more; ++i) {
      expected.push_back(BlockId{model_.TakeOne()});
    }
    EXPECT_EQ(sequence.lease.blocks(), absl::MakeConstSpan(expected));
    refusals_ += fits ? 0 : 1;
    return fits;
  }

  void ComputePage(Sequence& sequence) {
    if (sequence.over) return;
    const size_t index = sequence.pages_done;
    if (index == sequence.lease.blocks().size() && !Grow(sequence)) return;
    const BlockId block = sequence.lease.blocks()[index];
    if (block == kNoBlock) {  // dropped before it was written to
      sequence.over = true;
      return;
    }
    const PrefixCache::Page page = PageAt(sequence, index);
    contents_[Id(block)] = ContentOf(sequence, index);
    AddAsExpected(sequence, page, block);
    sequence.pages_done = index + 1;
    sequence.over = sequence.pages_done * kPageTokens >= sequence.text.size();
  }

  void AddAsExpected(Sequence& sequence, const PrefixCache::Page& page, BlockId block) {
    ModelPage added{sequence.place, page.variant,
                    Text(page.tokens.begin(), page.tokens.end()), 0};
    const int32_t known = model_.FindSame(added);
    sequence.place = cache_->Add(sequence.place, page, block);
    added.serial = sequence.place.page;
    ASSERT_EQ(sequence.place.root, sequence.root);
    if (known < kBlocks) {
      ++duplicates_;
      ASSERT_EQ(model_.page[known]->serial, added.serial);
      ASSERT_EQ(contents_[known], contents_[Id(block)]);
      if (model_.holders[known] > 0) return;
      ++moved_;
      model_.page[known].reset();
      std::erase(model_.unheld, known);
    } else {
      ASSERT_TRUE(serials_.insert(added.serial).second);  // never used before
    }
    model_.page[Id(block)] = std::move(added);
  }

  void DropOne(BlockLease& lease) {
    if (lease.blocks().empty()) return;
    const auto index = static_cast<int32_t>(Random(lease.blocks().size()));
    const BlockId block = lease.blocks()[index];
    if (block == kNoBlock) return;
    lease.Drop(index);
    model_.GiveBack(Id(block));
  }

  void End(size_t at) {
    const BlockLease& lease = sequences_[at].lease;
    for (auto block = lease.blocks().rbegin(); block != lease.blocks().rend(); ++block) {
      if (*block != kNoBlock) model_.GiveBack(Id(*block));
    }
    std::swap(sequences_[at], sequences_.back());
    sequences_.pop_back();
  }

  std::mt19937 random_;
  BlockPool pool_{{.num_blocks = kBlocks, .tokens_per_block = kPageTokens}};
  std::optional<PrefixCache> cache_{std::in_place, pool_};
  std::vector<Sequence> sequences_;
  Model model_;
  std::vector<Content> contents_{kBlocks};
  std::set<int32_t> shared_;    // blocks that a sequence got from the cache
  std::set<uint64_t> serials_;  // of all pages ever
  int64_t whole_pages_ = 0, tails_ = 0, duplicates_ = 0, moved_ = 0, refusals_ = 0;
};

class PrefixCachePropertyTest : public testing::TestWithParam<uint32_t> {};

TEST_P(PrefixCachePropertyTest, DoesWhatThePlainModelDoes) {
  Walk walk(GetParam());
  for (int operation = 0; operation < 50000; ++operation) {
    walk.Step();
    walk.CheckAll();
    if (testing::Test::HasFailure()) FAIL() << "operation " << operation;
  }
  walk.Finish();
  // The walk has come through all that it is there for.
  EXPECT_THAT((std::vector<int64_t>{walk.evicted(), walk.orphaned(), walk.whole_pages(),
                                    walk.tails(), walk.duplicates(), walk.moved(),
                                    walk.refusals()}),
              Each(testing::Gt(100)));
}

INSTANTIATE_TEST_SUITE_P(Seeds, PrefixCachePropertyTest, testing::Values(1, 2, 3));

}  // namespace
}  // namespace quire

#include "core/kv/prefix_cache.h"

#include <cstdlib>
#include <numeric>
#include <optional>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace quire {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

using Text = std::vector<TokenId>;
using Place = PrefixCache::Place;

constexpr int32_t kPageTokens = 4;
const Place kRoot = PrefixCache::Root(0);

BlockId B(int32_t id) { return BlockId{id}; }

std::vector<PrefixCache::Page> Cut(const Text& text, uint64_t variant = 0) {
  std::vector<PrefixCache::Page> pages;
  for (size_t at = 0; at < text.size(); at += kPageTokens) {
    pages.push_back({absl::MakeSpan(text).subspan(at, kPageTokens), variant});
  }
  return pages;
}

class PrefixCacheTest : public testing::Test {
 protected:
  // A sequence that computes all pages of a text itself and adds them.
  BlockLease Compute(const Text& text, Place place = kRoot, uint64_t variant = 0) {
    BlockLease lease = pool_.Lease();
    const std::vector<PrefixCache::Page> pages = Cut(text, variant);
    EXPECT_TRUE(lease.GrowTo(static_cast<int32_t>(pages.size())).ok());
    for (size_t i = 0; i < pages.size(); ++i) {
      place = cache_->Add(place, pages[i], lease.blocks()[i]);
    }
    return lease;
  }
  PrefixCache::Found Find(const Text& text, int64_t max_tokens = 1000, Place root = kRoot,
                          uint64_t variant = 0) {
    return cache_->Find(root, Cut(text, variant), max_tokens);
  }
  // Takes `count` blocks out of the cache's reach for good.
  void Squeeze(int32_t count) {
    squeezed_.push_back(pool_.Lease());
    ASSERT_TRUE(squeezed_.back().GrowTo(count).ok());
  }

  BlockPool pool_{{.num_blocks = 8, .tokens_per_block = kPageTokens}};
  std::optional<PrefixCache> cache_{std::in_place, pool_};
  std::vector<BlockLease> squeezed_;
};

TEST_F(PrefixCacheTest, KnowsNothingAtFirst) {
  const PrefixCache::Found found = Find({1, 2, 3, 4});
  EXPECT_THAT(found.blocks, IsEmpty());
  EXPECT_EQ(found.place, kRoot);
  EXPECT_EQ(found.tail, kNoBlock);
  EXPECT_EQ(found.tail_tokens, 0);
  EXPECT_EQ(found.tokens, 0);
  EXPECT_EQ(cache_->pages(), 0);
  EXPECT_EQ(cache_->evicted_pages(), 0);
}

TEST_F(PrefixCacheTest, WholePagesAreSharedWhileHeldAndAfter) {
  BlockLease lease = Compute({1, 2, 3, 4, 5, 6, 7, 8});
  const PrefixCache::Found found = Find({1, 2, 3, 4, 5, 6, 7, 8, 9});
  EXPECT_THAT(found.blocks, ElementsAre(B(0), B(1)));
  EXPECT_EQ(found.tail, kNoBlock);
  EXPECT_EQ(found.tail_tokens, 0);
  EXPECT_EQ(found.tokens, 8);
  EXPECT_EQ(cache_->pages(), 2);
  lease = BlockLease();
  EXPECT_EQ(pool_.free_blocks(), 8);
  EXPECT_EQ(pool_.cached_blocks(), 2);
  const PrefixCache::Found again = Find({1, 2, 3, 4, 5, 6, 7, 8});
  EXPECT_EQ(again.place, found.place);
  BlockLease second = pool_.Lease();
  for (const BlockId block : again.blocks) second.Share(block);
  EXPECT_EQ(pool_.free_blocks(), 6);
}

TEST_F(PrefixCacheTest, PagesAddedBehindAFoundPlaceGoOnFromThere) {
  BlockLease first = Compute({1, 2, 3, 4});
  const PrefixCache::Found found = Find({1, 2, 3, 4, 5, 6, 7, 8});
  BlockLease second = Compute({5, 6, 7, 8}, found.place);
  EXPECT_THAT(Find({1, 2, 3, 4, 5, 6, 7, 8}).blocks, ElementsAre(B(0), B(1)));
  EXPECT_THAT(Find({5, 6, 7, 8}).blocks, IsEmpty());  // not what the text begins with
}

struct TailCase {
  const char* name;
  Text wanted;
  int64_t max_tokens;
  std::vector<BlockId> blocks;
  BlockId tail;
  int32_t tail_tokens;
};

class PrefixCacheTailTest : public PrefixCacheTest,
                            public testing::WithParamInterface<TailCase> {};

// Known: 1 2 3 4 | 5 6 7 8 and 1 2 3 4 | 5 6 9 and 1 2 3 4 | 5.
TEST_P(PrefixCacheTailTest, IsThePageWithTheLongestCommonBeginning) {
  BlockLease first = Compute({1, 2, 3, 4, 5, 6, 7, 8});
  const Place behind = Find({1, 2, 3, 4}).place;
  BlockLease second = Compute({5, 6, 9}, behind);  // block 2
  BlockLease third = Compute({5}, behind);         // block 3
  const TailCase& expected = GetParam();
  const PrefixCache::Found found = Find(expected.wanted, expected.max_tokens);
  EXPECT_EQ(found.blocks, expected.blocks);
  EXPECT_EQ(found.tail, expected.tail);
  EXPECT_EQ(found.tail_tokens, expected.tail_tokens);
  EXPECT_EQ(found.tokens,
            4 * static_cast<int64_t>(found.blocks.size()) + expected.tail_tokens);
}

INSTANTIATE_TEST_SUITE_P(
    Cases, PrefixCacheTailTest,
    testing::Values(
        TailCase{"DiffersInItsLastToken", {1, 2, 3, 4, 5, 6, 7, 0}, 99, {B(0)}, B(1), 3},
        TailCase{"WantedIsShorter", {1, 2, 3, 4, 5, 6, 7}, 99, {B(0)}, B(1), 3},
        TailCase{"KnownIsShorter", {1, 2, 3, 4, 5, 6, 9, 8, 7}, 99, {B(0)}, B(2), 3},
        TailCase{"KnownIsTheSame", {1, 2, 3, 4, 5, 6, 9}, 99, {B(0)}, B(2), 3},
        TailCase{"SmallerNeighbour", {1, 2, 3, 4, 5, 6, 9, 9}, 99, {B(0)}, B(2), 3},
        TailCase{"LargerNeighbour", {1, 2, 3, 4, 5, 6, 8, 9}, 99, {B(0)}, B(2), 2},
        TailCase{"NothingInCommon", {1, 2, 3, 4, 6, 6, 7, 8}, 99, {B(0)}, kNoBlock, 0},
        TailCase{"BehindTheRoot", {1, 2, 7, 4, 5, 6, 7, 8}, 99, {}, B(0), 2},
        TailCase{"FirstTokenDiffers", {9, 2, 3, 4, 5, 6, 7, 8}, 99, {}, kNoBlock, 0},
        TailCase{"LimitInAPage", {1, 2, 3, 4, 5, 6, 7, 8}, 7, {B(0)}, B(1), 3},
        TailCase{
            "LimitBehindAPage", {1, 2, 3, 4, 5, 6, 7, 8}, 8, {B(0), B(1)}, kNoBlock, 0},
        TailCase{"LimitBeforeAPage", {1, 2, 3, 4, 5, 6, 7, 8}, 4, {B(0)}, kNoBlock, 0},
        TailCase{"LimitInTheFirstPage", {1, 2, 3, 4, 5, 6, 7, 8}, 1, {}, B(0), 1},
        TailCase{"LimitIsZero", {1, 2, 3, 4}, 0, {}, kNoBlock, 0},
        TailCase{"LimitIsNegative", {1, 2, 3, 4}, -1, {}, kNoBlock, 0},
        TailCase{"NothingWanted", {}, 99, {}, kNoBlock, 0}),
    [](const auto& info) { return info.param.name; });

TEST_F(PrefixCacheTest, AmongManyPagesTheClosestIsFound) {
  std::vector<BlockLease> leases;
  for (const Text& text : {Text{5, 1, 1, 1}, {5, 5, 1, 1}, {5, 5, 5, 1}, {5, 9, 9, 9}}) {
    leases.push_back(Compute(text));
  }
  EXPECT_EQ(Find({5, 5, 5, 9}).tail, B(2));
  EXPECT_EQ(Find({5, 5, 4, 1}).tail_tokens, 2);
  EXPECT_EQ(Find({5, 9, 0, 0}).tail, B(3));
  EXPECT_EQ(Find({5, 1, 0, 0}).tail, B(0));
  EXPECT_EQ(Find({5, 3, 0, 0}).tail_tokens, 1);
}

TEST_F(PrefixCacheTest, RootsShareNothing) {
  constexpr uint64_t kNames[] = {0, 1, uint64_t{1} << 63, ~uint64_t{0}};
  std::vector<BlockLease> leases;
  for (const uint64_t name : kNames) {
    const Place root = PrefixCache::Root(name);
    EXPECT_EQ(Find({1, 2, 3, 4}, 99, root).tokens, 0) << name;
    leases.push_back(Compute({1, 2, 3, 4}, root));
  }
  EXPECT_EQ(cache_->pages(), 4);
  for (int32_t i = 0; i < 4; ++i) {
    EXPECT_THAT(Find({1, 2, 3, 4}, 99, PrefixCache::Root(kNames[i])).blocks,
                ElementsAre(B(i)));
  }
}

TEST_F(PrefixCacheTest, VariantsShareNothing) {
  BlockLease dense = Compute({1, 2, 3, 4, 5, 6, 7, 8}, kRoot, 0);
  EXPECT_EQ(Find({1, 2, 3, 4}, 99, kRoot, 1).tokens, 0);
  EXPECT_EQ(Find({1, 2, 3, 4}, 3, kRoot, 1).tail, kNoBlock);
  BlockLease sparse = Compute({1, 2, 3, 4}, kRoot, 1);
  EXPECT_THAT(Find({1, 2, 3, 4, 5}, 99, kRoot, 1).blocks, ElementsAre(B(2)));
  EXPECT_THAT(Find({1, 2, 3, 4, 5}, 99, kRoot, 0).blocks, ElementsAre(B(0)));
}

TEST_F(PrefixCacheTest, AChainMayChangeItsVariantOnTheWay) {
  const Text text = {1, 2, 3, 4, 5, 6, 7, 8};
  BlockLease first = Compute({1, 2, 3, 4}, kRoot, 0);
  BlockLease second = Compute({5, 6, 7, 8}, Find({1, 2, 3, 4}).place, 7);
  std::vector<PrefixCache::Page> pages = Cut(text);
  EXPECT_EQ(cache_->Find(kRoot, pages, 99).tokens, 4);
  pages[1].variant = 7;
  EXPECT_EQ(cache_->Find(kRoot, pages, 99).tokens, 8);
  EXPECT_EQ(cache_->Find(kRoot, pages, 6).tail, B(1));
}

// A found page stands for the text before it, not only for its own tokens.
TEST_F(PrefixCacheTest, TheSamePageBehindAnotherIsAnother) {
  BlockLease first = Compute({1, 1, 1, 1, 5, 6, 7, 8});
  BlockLease second = Compute({2, 2, 2, 2, 5, 6, 7, 8});
  EXPECT_EQ(cache_->pages(), 4);
  EXPECT_THAT(Find({1, 1, 1, 1, 5, 6, 7, 8}).blocks, ElementsAre(B(0), B(1)));
  EXPECT_THAT(Find({2, 2, 2, 2, 5, 6, 7, 8}).blocks, ElementsAre(B(2), B(3)));
}

TEST_F(PrefixCacheTest, ADuplicateOfAHeldPageStaysTheSequencesOwn) {
  BlockLease first = Compute({1, 2, 3, 4});
  BlockLease second = Compute({1, 2, 3, 4, 5, 6, 7, 8});  // blocks 1 and 2
  EXPECT_EQ(cache_->pages(), 2);
  EXPECT_EQ(pool_.cached_blocks(), 2);
  EXPECT_THAT(Find({1, 2, 3, 4, 5, 6, 7, 8}).blocks, ElementsAre(B(0), B(2)));
  second = BlockLease();
  Squeeze(6);
  EXPECT_THAT(squeezed_[0].blocks(), ElementsAre(B(1), B(3), B(4), B(5), B(6), B(7)));
  EXPECT_EQ(cache_->evicted_pages(), 0);  // block 1 was empty
}

TEST_F(PrefixCacheTest, ADuplicateStandsInForAPageThatNobodyHolds) {
  BlockLease first = Compute({1, 2, 3, 4, 5, 6, 7, 8});
  const Place place = Find({1, 2, 3, 4}).place;
  first = BlockLease();
  squeezed_.push_back(pool_.Lease());
  squeezed_.back().Share(B(1));
  BlockLease second = pool_.Lease();
  ASSERT_TRUE(second.GrowTo(1).ok());
  const Text text = {1, 2, 3, 4};
  EXPECT_EQ(cache_->Add(kRoot, Cut(text)[0], second.blocks()[0]), place);
  EXPECT_EQ(cache_->pages(), 2);
  EXPECT_EQ(pool_.cached_blocks(), 2);
  // Block 0 is empty; what stands behind the page is found as before.
  EXPECT_THAT(Find({1, 2, 3, 4, 5, 6, 7, 8}).blocks, ElementsAre(B(2), B(1)));
  Squeeze(6);
  EXPECT_THAT(squeezed_[1].blocks(), ElementsAre(B(0), B(3), B(4), B(5), B(6), B(7)));
  EXPECT_EQ(cache_->evicted_pages(), 0);
}

TEST_F(PrefixCacheTest, TheEndOfAChainIsEvictedBeforeItsBeginning) {
  const Text text = {1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4};
  Compute(text);  // and gives all back
  EXPECT_EQ(Find(text).tokens, 14);
  Squeeze(4);  // those that were empty
  EXPECT_EQ(Find(text).tokens, 14);
  constexpr int64_t kLeft[] = {12, 8, 4, 0};
  for (int32_t evicted = 1; evicted <= 4; ++evicted) {
    Squeeze(1);
    EXPECT_EQ(Find(text).tokens, kLeft[evicted - 1]);
    EXPECT_EQ(cache_->evicted_pages(), evicted);
    EXPECT_EQ(cache_->pages(), 4 - evicted);
  }
}

TEST_F(PrefixCacheTest, TheLeastRecentlyUsedChainIsEvictedFirst) {
  Compute({1, 1, 1, 1, 2, 2, 2, 2});
  Compute({3, 3, 3, 3, 4, 4, 4, 4});
  Squeeze(4);
  {
    BlockLease again = pool_.Lease();
    for (const BlockId block : Find({1, 1, 1, 1, 2, 2, 2, 2}).blocks) again.Share(block);
  }
  Squeeze(2);
  EXPECT_EQ(Find({1, 1, 1, 1, 2, 2, 2, 2}).tokens, 8);
  EXPECT_EQ(Find({3, 3, 3, 3, 4, 4, 4, 4}).tokens, 0);
}

// A tail is held while it is copied; its pages are held longer.
TEST_F(PrefixCacheTest, ACopiedTailIsEvictedLateAndBeforeItsPages) {
  const Text text = {1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3};
  Compute(text);
  Compute({4, 4, 4, 4});
  const PrefixCache::Found found = Find({1, 1, 1, 1, 2, 2, 2, 2, 3, 3});
  BlockLease lease = pool_.Lease(), tail = pool_.Lease();
  for (const BlockId block : found.blocks) lease.Share(block);
  tail.Share(found.tail);
  tail = BlockLease();
  lease = BlockLease();
  Squeeze(5);  // four that were empty, and one
  EXPECT_EQ(Find({4, 4, 4, 4}).tokens, 0);
  constexpr int64_t kLeft[] = {8, 4, 0};
  for (const int64_t left : kLeft) {
    Squeeze(1);
    EXPECT_EQ(Find(text).tokens, left);
  }
}

TEST_F(PrefixCacheTest, APageWhosePlaceWentIsNotFoundAndGoesInItsTurn) {
  const Text text = {1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3};
  BlockLease lease = Compute(text);
  lease.Drop(0);
  Squeeze(6);  // five that were empty, and the first page
  EXPECT_EQ(cache_->evicted_pages(), 1);
  EXPECT_EQ(cache_->pages(), 2);
  EXPECT_EQ(Find(text).tokens, 0);

  squeezed_.clear();
  BlockLease again = Compute({1, 1, 1, 1});
  EXPECT_EQ(Find(text).tokens, 4);  // a new place: what stood behind the old one is lost
  EXPECT_THAT(Find(text).blocks, ElementsAre(again.blocks()[0]));
  lease = BlockLease();
  Squeeze(7);
  EXPECT_EQ(cache_->evicted_pages(), 3);
  EXPECT_EQ(cache_->pages(), 1);
  EXPECT_EQ(Find(text).tokens, 4);
}

TEST_F(PrefixCacheTest, AtTheEndAllPagesAreForgotten) {
  BlockLease lease = Compute({1, 1, 1, 1});
  Compute({2, 2, 2, 2});
  EXPECT_EQ(pool_.cached_blocks(), 2);
  cache_.reset();
  EXPECT_EQ(pool_.cached_blocks(), 0);
  EXPECT_EQ(pool_.free_blocks(), 7);
  Squeeze(7);
  EXPECT_THAT(lease.blocks(), ElementsAre(B(0)));
  pool_.SetCached(B(0));
  lease = BlockLease();
  Squeeze(1);  // and nobody is told
  EXPECT_EQ(pool_.cached_blocks(), 0);
}

TEST_F(PrefixCacheTest, ALongDocumentIsFoundWhole) {
  constexpr int32_t kBlocks = 470;
  BlockPool pool({.num_blocks = kBlocks, .tokens_per_block = kPageTokens});
  PrefixCache cache(pool);
  Text text(kBlocks * kPageTokens);
  std::iota(text.begin(), text.end(), 0);
  BlockLease lease = pool.Lease();
  ASSERT_TRUE(lease.GrowTo(kBlocks).ok());
  Place place = PrefixCache::Root(3);
  const std::vector<PrefixCache::Page> pages = Cut(text);
  for (int32_t i = 0; i < kBlocks; ++i) {
    place = cache.Add(place, pages[i], lease.blocks()[i]);
  }
  const PrefixCache::Found found = cache.Find(PrefixCache::Root(3), pages, 1'000'000);
  EXPECT_EQ(absl::MakeConstSpan(found.blocks), lease.blocks());
  EXPECT_EQ(found.place, place);
  EXPECT_EQ(cache.Find(PrefixCache::Root(3), pages, 1879).tokens, 1879);
}

using PrefixCacheDeathTest = PrefixCacheTest;

TEST_F(PrefixCacheDeathTest, PagesHaveTokensAndNotTooMany) {
  BlockLease lease = pool_.Lease();
  ASSERT_TRUE(lease.GrowTo(1).ok());
  const Text text = {1, 2, 3, 4, 5};
  const PrefixCache::Page pages[] = {{.tokens = text}};
  EXPECT_DEATH(cache_->Add(kRoot, {}, B(0)), "check failed");
  EXPECT_DEATH(cache_->Add(kRoot, pages[0], B(0)), "check failed");
  EXPECT_DEATH((void)cache_->Find(kRoot, pages, 4), "check failed");
}

TEST_F(PrefixCacheDeathTest, AnAddedBlockIsHeldAndHoldsOnePage) {
  const Text text = {1, 2, 3, 4, 5, 6, 7, 8};
  const std::vector<PrefixCache::Page> pages = Cut(text);
  EXPECT_DEATH(cache_->Add(kRoot, pages[0], B(0)), "check failed");
  EXPECT_DEATH(cache_->Add(kRoot, pages[0], kNoBlock), "check failed");
  BlockLease lease = Compute({1, 2, 3, 4});
  EXPECT_DEATH(cache_->Add(kRoot, pages[0], B(0)), "check failed");
  EXPECT_DEATH(cache_->Add(kRoot, pages[1], B(0)), "check failed");
}

}  // namespace
}  // namespace quire

#include "core/kv/block_pool.h"

#include <random>
#include <set>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace quire {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

BlockId B(int32_t id) { return BlockId{id}; }

TEST(KvGeometryTest, BlocksForRoundsUp) {
  const KvGeometry geometry{.num_blocks = 3, .tokens_per_block = 64};
  EXPECT_EQ(geometry.capacity_tokens(), 192);
  EXPECT_EQ(geometry.BlocksFor(0), 0);
  EXPECT_EQ(geometry.BlocksFor(1), 1);
  EXPECT_EQ(geometry.BlocksFor(64), 1);
  EXPECT_EQ(geometry.BlocksFor(65), 2);
}

TEST(BlockPoolTest, GivesTheSmallestFreeIdsFirst) {
  BlockPool pool({.num_blocks = 6});
  BlockLease first = pool.Lease(), second = pool.Lease(), third = pool.Lease();
  EXPECT_THAT(first.blocks(), IsEmpty());
  ASSERT_TRUE(first.GrowTo(2).ok());
  ASSERT_TRUE(second.GrowTo(2).ok());
  first = BlockLease();
  ASSERT_TRUE(third.GrowTo(3).ok());
  EXPECT_THAT(second.blocks(), ElementsAre(B(2), B(3)));
  EXPECT_THAT(third.blocks(), ElementsAre(B(0), B(1), B(4)));
  EXPECT_EQ(pool.free_blocks(), 1);
}

TEST(BlockPoolTest, GrowsAndNeverShrinks) {
  BlockPool pool({.num_blocks = 4});
  BlockLease lease = pool.Lease();
  ASSERT_TRUE(lease.GrowTo(3).ok());
  ASSERT_TRUE(lease.GrowTo(1).ok());
  ASSERT_TRUE(lease.GrowTo(-5).ok());
  EXPECT_THAT(lease.blocks(), ElementsAre(B(0), B(1), B(2)));
}

TEST(BlockPoolTest, RefusalNamesTheNumbersAndChangesNothing) {
  BlockPool pool({.num_blocks = 4});
  BlockLease lease = pool.Lease(), other = pool.Lease();
  ASSERT_TRUE(lease.GrowTo(1).ok());
  ASSERT_TRUE(other.GrowTo(1).ok());
  EXPECT_EQ(lease.GrowTo(4),
            absl::ResourceExhaustedError(
                "key/value cache: 3 more blocks are needed, 2 of 4 are free"));
  EXPECT_THAT(lease.blocks(), ElementsAre(B(0)));
  EXPECT_EQ(pool.free_blocks(), 2);
  EXPECT_TRUE(lease.GrowTo(3).ok());
}

TEST(BlockPoolTest, MovingKeepsTheBlocks) {
  BlockPool pool({.num_blocks = 4});
  BlockLease lease = pool.Lease();
  ASSERT_TRUE(lease.GrowTo(2).ok());
  BlockLease moved(std::move(lease));
  EXPECT_EQ(pool.free_blocks(), 2);
  BlockLease assigned = pool.Lease();
  ASSERT_TRUE(assigned.GrowTo(1).ok());
  assigned = std::move(moved);
  EXPECT_THAT(assigned.blocks(), ElementsAre(B(0), B(1)));
  EXPECT_EQ(pool.free_blocks(), 2);
}

TEST(BlockPoolTest, ADroppedBlockGoesBackAndLeavesItsPlaceEmpty) {
  BlockPool pool({.num_blocks = 4});
  BlockLease lease = pool.Lease(), other = pool.Lease();
  ASSERT_TRUE(lease.GrowTo(3).ok());
  lease.Drop(1);
  EXPECT_THAT(lease.blocks(), ElementsAre(B(0), kNoBlock, B(2)));
  EXPECT_EQ(pool.free_blocks(), 2);
  ASSERT_TRUE(other.GrowTo(1).ok());
  EXPECT_THAT(other.blocks(), ElementsAre(B(1)));
  ASSERT_TRUE(lease.GrowTo(4).ok());
  EXPECT_THAT(lease.blocks(), ElementsAre(B(0), kNoBlock, B(2), B(3)));
  lease = BlockLease();
  EXPECT_EQ(pool.free_blocks(), 3);
}

TEST(BlockPoolDeathTest, WhatIsNotHeldCannotBeDropped) {
  BlockPool pool({.num_blocks = 4});
  BlockLease lease = pool.Lease();
  ASSERT_TRUE(lease.GrowTo(2).ok());
  lease.Drop(0);
  EXPECT_DEATH(lease.Drop(0), "check failed");
  EXPECT_DEATH(lease.Drop(2), "check failed");
  EXPECT_DEATH(lease.Drop(-1), "check failed");
}

TEST(BlockPoolTest, ASharedBlockIsFreeWhenItsLastHolderGaveItBack) {
  BlockPool pool({.num_blocks = 4});
  BlockLease first = pool.Lease(), second = pool.Lease();
  ASSERT_TRUE(first.GrowTo(3).ok());
  second.Share(B(0));
  second.Share(B(1));
  ASSERT_TRUE(second.GrowTo(3).ok());
  EXPECT_THAT(second.blocks(), ElementsAre(B(0), B(1), B(3)));
  EXPECT_EQ(pool.holders(B(0)), 2);
  EXPECT_EQ(pool.holders(B(3)), 1);
  EXPECT_EQ(first.unshared_blocks(), 1);
  EXPECT_EQ(second.unshared_blocks(), 1);
  EXPECT_EQ(pool.free_blocks(), 0);
  second.Drop(1);
  EXPECT_EQ(first.unshared_blocks(), 2);
  EXPECT_EQ(second.unshared_blocks(), 1);  // the place that Drop left counts for nothing
  EXPECT_EQ(pool.free_blocks(), 0);
  first = BlockLease();
  EXPECT_EQ(pool.holders(B(0)), 1);
  EXPECT_EQ(pool.holders(B(1)), 0);
  EXPECT_EQ(pool.free_blocks(), 2);
  EXPECT_EQ(second.unshared_blocks(), 2);
}

// A pool of which all blocks are cached and held by nobody: 0, 1, ... is the order in
// which their leases gave them back.
class CachedBlocksTest : public testing::Test {
 protected:
  void SetUp() override {
    pool_.set_on_evict([this](BlockId block) { evicted_.push_back(block); });
    std::vector<BlockLease> leases;
    for (int32_t id = 0; id < 4; ++id) {
      leases.push_back(pool_.Lease());
      ASSERT_TRUE(leases.back().GrowTo(1).ok());
      pool_.SetCached(B(id));
    }
    for (BlockLease& lease : leases) lease = BlockLease();
  }

  BlockPool pool_{{.num_blocks = 4}};
  std::vector<BlockId> evicted_;
};

TEST_F(CachedBlocksTest, KeepTheirContentUntilTheirMemoryIsNeeded) {
  EXPECT_EQ(pool_.free_blocks(), 4);
  EXPECT_EQ(pool_.cached_blocks(), 4);
  BlockLease lease = pool_.Lease();
  ASSERT_TRUE(lease.GrowTo(3).ok());
  EXPECT_THAT(lease.blocks(), ElementsAre(B(0), B(1), B(2)));
  EXPECT_THAT(evicted_, ElementsAre(B(0), B(1), B(2)));
  EXPECT_EQ(pool_.cached_blocks(), 1);
  EXPECT_EQ(pool_.free_blocks(), 1);
  lease = BlockLease();
  EXPECT_EQ(pool_.cached_blocks(), 1);  // the others came back empty
  EXPECT_EQ(pool_.free_blocks(), 4);
}

TEST_F(CachedBlocksTest, RefusalEvictsNothing) {
  BlockLease lease = pool_.Lease(), other = pool_.Lease();
  other.Share(B(2));
  EXPECT_EQ(lease.GrowTo(4),
            absl::ResourceExhaustedError(
                "key/value cache: 4 more blocks are needed, 3 of 4 are free"));
  EXPECT_THAT(lease.blocks(), IsEmpty());
  EXPECT_THAT(evicted_, IsEmpty());
  EXPECT_EQ(pool_.cached_blocks(), 4);
  EXPECT_EQ(pool_.free_blocks(), 3);
}

TEST_F(CachedBlocksTest, EmptyBlocksGoFirst) {
  pool_.ClearCached(B(3));
  pool_.ClearCached(B(1));
  BlockLease lease = pool_.Lease();
  ASSERT_TRUE(lease.GrowTo(3).ok());
  EXPECT_THAT(lease.blocks(), ElementsAre(B(1), B(3), B(0)));
  EXPECT_THAT(evicted_, ElementsAre(B(0)));
}

TEST_F(CachedBlocksTest, WhatWasHeldOrTouchedGoesLast) {
  BlockLease lease = pool_.Lease();
  lease.Share(B(0));
  EXPECT_EQ(lease.unshared_blocks(), 1);
  pool_.Touch(B(1));
  pool_.Touch(B(0));  // held: not to be evicted at all
  lease = BlockLease();
  ASSERT_TRUE(lease.blocks().empty());
  BlockLease all = pool_.Lease();
  ASSERT_TRUE(all.GrowTo(4).ok());
  EXPECT_THAT(all.blocks(), ElementsAre(B(2), B(3), B(1), B(0)));
  EXPECT_THAT(evicted_, ElementsAre(B(2), B(3), B(1), B(0)));
}

TEST_F(CachedBlocksTest, AHeldBlockIsNeverEvicted) {
  BlockLease held = pool_.Lease(), lease = pool_.Lease();
  held.Share(B(1));
  ASSERT_TRUE(lease.GrowTo(3).ok());
  EXPECT_THAT(lease.blocks(), ElementsAre(B(0), B(2), B(3)));
  EXPECT_EQ(pool_.cached_blocks(), 1);
  pool_.ClearCached(B(1));
  EXPECT_EQ(pool_.free_blocks(), 0);
  EXPECT_EQ(pool_.cached_blocks(), 0);
}

TEST(BlockPoolTest, ALeaseGivesTheLastBlockBackFirst) {
  BlockPool pool({.num_blocks = 3});  // nobody listens to evictions
  BlockLease lease = pool.Lease();
  ASSERT_TRUE(lease.GrowTo(3).ok());
  for (int32_t id = 0; id < 3; ++id) pool.SetCached(B(id));
  lease = BlockLease();
  BlockLease next = pool.Lease();
  ASSERT_TRUE(next.GrowTo(3).ok());
  EXPECT_THAT(next.blocks(), ElementsAre(B(2), B(1), B(0)));
}

TEST(BlockPoolDeathTest, WhatIsNeitherHeldNorCachedCannotBeShared) {
  BlockPool pool({.num_blocks = 2});
  BlockLease lease = pool.Lease(), unbound;
  EXPECT_DEATH(lease.Share(B(0)), "check failed");
  EXPECT_DEATH(lease.Share(B(2)), "check failed");
  EXPECT_DEATH(lease.Share(kNoBlock), "check failed");
  ASSERT_TRUE(lease.GrowTo(1).ok());
  EXPECT_DEATH(unbound.Share(B(0)), "check failed");
}

TEST(BlockPoolDeathTest, CachingMustFitTheBlocksState) {
  BlockPool pool({.num_blocks = 2});
  BlockLease lease = pool.Lease();
  EXPECT_DEATH(pool.SetCached(B(0)), "check failed");  // not held
  EXPECT_DEATH((void)pool.holders(B(2)), "check failed");
  ASSERT_TRUE(lease.GrowTo(1).ok());
  EXPECT_DEATH(pool.Touch(B(0)), "check failed");
  EXPECT_DEATH(pool.ClearCached(B(0)), "check failed");
  pool.SetCached(B(0));
  EXPECT_DEATH(pool.SetCached(B(0)), "check failed");  // already
}

TEST(BlockPoolDeathTest, LeaseMustNotOutliveThePool) {
  EXPECT_DEATH(
      {
        BlockLease lease;
        BlockPool pool({.num_blocks = 1});
        lease = pool.Lease();
        (void)lease.GrowTo(1);
      },
      "check failed");
}

// Every id is free or in exactly one lease, after each of many random operations.
TEST(BlockPoolPropertyTest, NothingIsLostOrGivenTwice) {
  std::mt19937 random(42);
  constexpr int32_t kBlocks = 37;
  BlockPool pool({.num_blocks = kBlocks});
  std::vector<BlockLease> leases;
  for (int operation = 0; operation < 20000; ++operation) {
    const size_t at = leases.empty() ? 0 : random() % leases.size();
    switch (random() % 4) {
      case 0:
        if (leases.size() < 12) leases.push_back(pool.Lease());
        break;
      case 1:
        if (!leases.empty()) leases.erase(leases.begin() + at);
        break;
      case 2:
        if (!leases.empty()) std::swap(leases[at], leases[random() % leases.size()]);
        break;
      default: {
        if (leases.empty()) break;
        const int32_t held = static_cast<int32_t>(leases[at].blocks().size());
        const int32_t count = static_cast<int32_t>(random() % 12);
        const bool fits = count - held <= pool.free_blocks();
        ASSERT_EQ(leases[at].GrowTo(count).ok(), fits);
        ASSERT_EQ(static_cast<int32_t>(leases[at].blocks().size()),
                  fits ? std::max(held, count) : held);
      }
    }
    std::set<BlockId> held;
    size_t total = 0;
    for (const BlockLease& lease : leases) {
      held.insert(lease.blocks().begin(), lease.blocks().end());
      total += lease.blocks().size();
    }
    ASSERT_EQ(held.size(), total);
    ASSERT_EQ(static_cast<int32_t>(total) + pool.free_blocks(), kBlocks);
    if (!held.empty()) {
      ASSERT_GE(*held.begin(), B(0));
      ASSERT_LT(*held.rbegin(), B(kBlocks));
    }
  }
}

}  // namespace
}  // namespace quire

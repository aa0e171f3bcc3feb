#include "core/runner/group_budget.h"

#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "core/dga/group_plan.h"

namespace quire {
namespace {

ModelConfig Config() { return {.num_layers = 3, .num_kv_heads = 2, .head_dim = 64}; }

int64_t BytesOf(int64_t tokens, const FaithfulOptions& options = {}) {
  return 3 * 2 * GroupBytes(options, tokens, 64);
}

// Tokens of some sequences, as steps ask for them.
class GroupBudgetTest : public ::testing::Test {
 protected:
  absl::Status Take(GroupBudget& budget, uint64_t id, int32_t begin, size_t count,
                    AttentionMode mode = AttentionMode::kFaithful,
                    int32_t group_tokens = 16) {
    tokens_.resize(count);
    StepItem item = {.id = RequestId{id}, .begin = begin, .tokens = tokens_};
    item.attention.mode = mode;
    item.attention.faithful.group_tokens = group_tokens;
    return budget.Take(item);
  }
  std::vector<TokenId> tokens_;
};

TEST(GroupBytesTest, AreAnEighthOfTheCacheAndRoomToGrow) {
  for (const int64_t d : {64, 128}) {
    const double share = static_cast<double>(GroupBytes({}, 32768, d)) /
                         static_cast<double>(32768 * 4 * d);
    EXPECT_GT(share, 1.25 * 0.9 / 8);
    EXPECT_LT(share, 1.25 / 8);
  }
  EXPECT_EQ(GroupBytes({}, 1000, 64), 10'000);  // all focal
  // 10 groups of 2 and 6 focal tokens.
  EXPECT_EQ(GroupBytes({.group_tokens = 2, .min_focal_tokens = 5}, 26, 64),
            (10 * 129 * 4 + 6 * 8) * 5 / 4);
}

TEST_F(GroupBudgetTest, ASequenceTakesWhatItHasReadSoFar) {
  GroupBudget budget(Config(), BytesOf(8000));
  EXPECT_TRUE(Take(budget, 1, 0, 4000).ok());
  EXPECT_TRUE(Take(budget, 1, 4000, 4000).ok());
  const absl::Status refused = Take(budget, 1, 8000, 100);
  EXPECT_EQ(refused,
            absl::ResourceExhaustedError(absl::StrCat(
                "attention.mode is FAITHFUL; the groups of 8100 tokens at group_tokens "
                "16 take ",
                BytesOf(8100), " bytes beside the cache, of ", BytesOf(8000),
                " there others have 0")));
  // It keeps what it has; and begins anew.
  EXPECT_FALSE(Take(budget, 2, 0, 1000).ok());
  EXPECT_TRUE(Take(budget, 1, 0, 2000).ok());
  EXPECT_TRUE(Take(budget, 2, 0, 1000).ok());
}

TEST_F(GroupBudgetTest, WhoIsOverGivesBack) {
  GroupBudget budget(Config(), BytesOf(6000));
  EXPECT_TRUE(Take(budget, 1, 0, 6000).ok());
  EXPECT_FALSE(Take(budget, 2, 0, 2000).ok());
  budget.Release(RequestId{1});
  budget.Release(RequestId{7});  // unknown
  EXPECT_TRUE(Take(budget, 2, 0, 6000).ok());
}

TEST_F(GroupBudgetTest, SmallGroupsAreMoreAndOtherModesHaveNone) {
  GroupBudget budget(Config(), BytesOf(20'000));
  EXPECT_FALSE(Take(budget, 1, 0, 20'000, AttentionMode::kFaithful, 1).ok());
  EXPECT_TRUE(Take(budget, 2, 0, 1'000'000, AttentionMode::kDense).ok());
  EXPECT_TRUE(Take(budget, 3, 0, 1'000'000, AttentionMode::kRefined).ok());
  EXPECT_TRUE(Take(budget, 4, 0, 20'000).ok());
}

}  // namespace
}  // namespace quire

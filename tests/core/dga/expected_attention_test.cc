#include "core/dga/expected_attention.h"

#include <gtest/gtest.h>

namespace quire {
namespace {

TEST(ExpectedAttentionTest, DenseRowsReadAllTheySee) {
  EXPECT_EQ(ExpectColumns({.mode = AttentionMode::kDense}, 0, 4),
            (ExpectedColumns{.read = 1 + 2 + 3 + 4}));
  EXPECT_EQ(ExpectColumns({.mode = AttentionMode::kDense}, 10, 2),
            (ExpectedColumns{.read = 11 + 12}));
  EXPECT_EQ(ExpectColumns({.mode = AttentionMode::kDense}, 10, 0), ExpectedColumns());
}

TEST(ExpectedAttentionTest, AutoIsDenseUntilManyAreSeen) {
  const AttentionOptions options{.mode = AttentionMode::kAuto};
  EXPECT_EQ(ExpectColumns(options, 4094, 1), (ExpectedColumns{.read = 4095}));
  EXPECT_EQ(ExpectColumns(options, 4095, 1),
            (ExpectedColumns{.read = RefinedColumns(0.04f), .scanned = 4096 - 192}));
  EXPECT_EQ(ExpectColumns({.refined_pays_from = kNeverPays}, 9999, 1).read, 10000);
  EXPECT_EQ(ExpectColumns({.mode = AttentionMode::kAuto, .eps = 0}, 9999, 1),
            (ExpectedColumns{.read = 10000}));
}

TEST(ExpectedAttentionTest, ARowReadsNoMoreThanItSees) {
  const AttentionOptions options{.mode = AttentionMode::kRefined};
  EXPECT_EQ(ExpectColumns(options, 191, 1), (ExpectedColumns{.read = 192}));
  EXPECT_EQ(ExpectColumns(options, 299, 1),
            (ExpectedColumns{.read = 300, .scanned = 300 - 192}));
}

// docs/dga-findings.md, quire-135m at 16,384 tokens: .057, .073 and .044 of the columns.
TEST(ExpectedAttentionTest, RefinedColumnsAreAsMeasured) {
  EXPECT_NEAR(RefinedColumns(0.04f), 467, 10);
  EXPECT_NEAR(RefinedColumns(0.03f), 598, 10);
  EXPECT_NEAR(RefinedColumns(0.056f), 360, 10);
}

TEST(ExpectedAttentionTest, FaithfulReadsFocalTokensAndGroups) {
  AttentionOptions options{.mode = AttentionMode::kFaithful};
  options.faithful = {.group_tokens = 10, .focal_share = 0.25f, .min_focal_tokens = 20};
  EXPECT_EQ(ExpectColumns(options, 9, 1), (ExpectedColumns{.read = 10}));
  EXPECT_EQ(ExpectColumns(options, 39, 1), (ExpectedColumns{.read = 20 + 2}));
  EXPECT_EQ(ExpectColumns(options, 99, 1), (ExpectedColumns{.read = 25 + 7.5}));
}

}  // namespace
}  // namespace quire

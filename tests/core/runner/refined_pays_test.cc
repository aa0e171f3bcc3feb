#include "core/runner/refined_pays.h"

#include <gtest/gtest.h>

namespace quire {
namespace {

// Of a layer, 4,096 bytes a token: 48 MiB are 12,288 tokens.
ModelConfig EightHeadsOf128() { return {.num_kv_heads = 8, .head_dim = 128}; }

TEST(ReadsRefinedTest, AutoWhereItPays) {
  const AttentionOptions attention;
  EXPECT_FALSE(ReadsRefined(EightHeadsOf128(), attention, 12286));
  EXPECT_TRUE(ReadsRefined(EightHeadsOf128(), attention, 12287));
  const ModelConfig small = {.num_kv_heads = 3, .head_dim = 64};  // quire-135m's
  EXPECT_FALSE(ReadsRefined(small, attention, 32767));
  EXPECT_TRUE(ReadsRefined(small, attention, 65535));
}

TEST(ReadsRefinedTest, AutoNeverBeforeItsLeastTokens) {
  AttentionOptions attention;
  attention.min_sparse_tokens = 20000;
  EXPECT_FALSE(ReadsRefined(EightHeadsOf128(), attention, 19998));
  EXPECT_TRUE(ReadsRefined(EightHeadsOf128(), attention, 19999));
}

TEST(ReadsRefinedTest, RefinedFromItsLeastTokensOn) {
  const AttentionOptions attention = {.mode = AttentionMode::kRefined};
  EXPECT_FALSE(ReadsRefined(EightHeadsOf128(), attention, attention.SparseFrom() - 2));
  EXPECT_TRUE(ReadsRefined(EightHeadsOf128(), attention, attention.SparseFrom() - 1));
}

TEST(ReadsRefinedTest, DenseAndEpsZeroNever) {
  EXPECT_FALSE(ReadsRefined(EightHeadsOf128(), {.mode = AttentionMode::kDense}, 100000));
  EXPECT_FALSE(ReadsRefined(EightHeadsOf128(),
                            {.mode = AttentionMode::kRefined, .eps = 0}, 100000));
}

}  // namespace
}  // namespace quire

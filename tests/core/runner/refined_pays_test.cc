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

TEST(RefinedRowsTest, AutoWhereItPays) {  // 32 MiB are 8,192 tokens
  const AttentionOptions attention;
  EXPECT_EQ(RefinedRows(EightHeadsOf128(), attention, 0, 8192), 0);
  EXPECT_EQ(RefinedRows(EightHeadsOf128(), attention, 0, 8200), 8);
  EXPECT_EQ(RefinedRows(EightHeadsOf128(), attention, 8192, 100), 100);
  const ModelConfig small = {.num_kv_heads = 3, .head_dim = 64};  // quire-135m's
  EXPECT_EQ(RefinedRows(small, attention, 32000, 768), 0);
  const ModelConfig many = {.num_kv_heads = 32, .head_dim = 128};
  EXPECT_EQ(RefinedRows(many, attention, 0, 4096), 1);  // not below its least tokens
}

TEST(RefinedRowsTest, RefinedFromItsLeastTokensOn) {
  const AttentionOptions attention = {.mode = AttentionMode::kRefined};
  const int32_t from = attention.SparseFrom() - 1;
  EXPECT_EQ(RefinedRows(EightHeadsOf128(), attention, 0, from), 0);
  EXPECT_EQ(RefinedRows(EightHeadsOf128(), attention, 0, from + 5), 5);
}

TEST(RefinedPaysFromTest, IsTheFirstRowThatAutoReadsRefined) {
  for (const ModelConfig& config :
       {EightHeadsOf128(), ModelConfig{.num_kv_heads = 3, .head_dim = 64},
        ModelConfig{.num_kv_heads = 5, .head_dim = 64}}) {
    const int32_t prompts = RefinedPaysFrom(config, true, true);
    EXPECT_EQ(RefinedRows(config, {}, 0, prompts - 1), 0);
    EXPECT_EQ(RefinedRows(config, {}, 0, prompts), 1);
    const int32_t decodes = RefinedPaysFrom(config, false, true);
    EXPECT_FALSE(ReadsRefined(config, {}, decodes - 2));
    EXPECT_TRUE(ReadsRefined(config, {}, decodes - 1));
    EXPECT_LT(prompts, decodes);
    EXPECT_EQ(RefinedPaysFrom(config, false, false), kNeverPays);
  }
}

TEST(RefinedRowsTest, DenseAndEpsZeroNever) {
  EXPECT_EQ(RefinedRows(EightHeadsOf128(), {.mode = AttentionMode::kDense}, 0, 1 << 20),
            0);
  EXPECT_EQ(RefinedRows(EightHeadsOf128(), {.mode = AttentionMode::kRefined, .eps = 0}, 0,
                        1 << 20),
            0);
}

}  // namespace
}  // namespace quire

#include <gtest/gtest.h>

#include <vector>

#include "tests/core/runner/cuda_runner_fixture.h"

// Refined attention of prompts on a GPU.
namespace quire {
namespace {

using namespace quire::testing;

constexpr AttentionOptions kDense = {.mode = AttentionMode::kDense};

Read ReadInChunks(ModelRunner& runner, const Sequence& sequence, size_t chunk,
                  const AttentionOptions& attention) {
  return ReadWhole(runner, sequence, attention, [chunk](Position) { return chunk; });
}

class CudaRefinedPromptTest : public CudaRunnerTest {
 protected:
  void SetUp() override {
    CudaRunnerTest::SetUp();
    if (IsSkipped()) return;
    const Read read = ReadInChunks(gpu(), Sequence(30, 1000, 0), 1000,
                                   {.mode = AttentionMode::kRefined, .eps = 0.04f});
    if (read.stats.sparse_rows == 0) GTEST_SKIP() << "no kernel: the GPU is not sm_90";
  }
};

TEST_F(CudaRefinedPromptTest, ScoresAsDenseAttentionAndReadsLess) {
  const Sequence sequence(31, 3000, 0);
  const Read dense = ReadInChunks(gpu(), sequence, 700, kDense);
  const Read refined =
      ReadInChunks(gpu(), sequence, 700, {.mode = AttentionMode::kRefined, .eps = 0.04f});
  ExpectClose(refined.scores, dense.scores, kRefinedDifference);
  const AttentionWork& work = refined.stats.work;
  EXPECT_EQ(work.dense_columns, dense.stats.work.columns);
  EXPECT_EQ(work.dense_macs, dense.stats.work.attention_macs);
  EXPECT_LT(work.columns, work.dense_columns);
  EXPECT_GT(work.expanded_columns, 0);
  EXPECT_GT(work.selection_macs, 0);
  EXPECT_GT(work.selection_bytes, 0);
  EXPECT_GT(refined.stats.sparse_rows, 0);
  const auto rows = static_cast<double>(refined.stats.sparse_rows);
  EXPECT_GT(refined.stats.coverage, 0.3 * rows);
  EXPECT_LE(refined.stats.coverage, 1.0001 * rows);
  EXPECT_GT(refined.stats.tail_risk, 0);
  EXPECT_LT(refined.stats.tail_risk, 0.04 * rows);
  EXPECT_EQ(refined.stats.audits, 0);
  EXPECT_GT(refined.stats.seconds, 0);
}

TEST_F(CudaRefinedPromptTest, ReadsEverythingIfItMayNotErr) {
  const Sequence sequence(32, 1500, 0);
  const Read dense = ReadInChunks(gpu(), sequence, 400, kDense);
  const Read refined =
      ReadInChunks(gpu(), sequence, 400, {.mode = AttentionMode::kRefined, .eps = 1e-6f});
  ExpectClose(refined.scores, dense.scores);
}

TEST_F(CudaRefinedPromptTest, ChunksChangeLittle) {
  const Sequence sequence(33, 2000, 0);
  const AttentionOptions attention = {.mode = AttentionMode::kRefined, .eps = 0.04f};
  const Read small = ReadInChunks(gpu(), sequence, 333, attention);
  const Read large = ReadInChunks(gpu(), sequence, 2000, attention);
  ExpectClose(small.scores, large.scores, kRefinedDifference);
  EXPECT_EQ(small.stats.sparse_rows, large.stats.sparse_rows);
  EXPECT_EQ(small.stats.work.dense_columns, large.stats.work.dense_columns);
}

TEST_F(CudaRefinedPromptTest, WhoElseIsInAStepDoesNotMatter) {
  const AttentionOptions attention = {.mode = AttentionMode::kRefined, .eps = 0.04f};
  Sequence a(34, 1200, 0), b(35, 900, 40), c(36, 500, 80);
  const Read alone = ReadInChunks(gpu(), a, 1200, attention);
  StepItem decoding = c.Item(499);
  RunStep(gpu(), {.items = {decoding}});
  c.done = 499;
  StepItem items[] = {a.Item(1200), b.Item(900), c.Item(1)};
  for (StepItem& item : items) item.attention = attention;
  const auto results = RunStep(gpu(), {.items = {items[0], items[1], items[2]}});
  ExpectClose(results[0].scores, alone.scores);
  EXPECT_EQ(results[0].attention.sparse_rows, alone.stats.sparse_rows);
}

TEST_F(CudaRefinedPromptTest, RowsAreAuditedIfThereIsALimit) {
  const Sequence sequence(37, 2500, 0);
  AttentionOptions attention = {.mode = AttentionMode::kRefined, .eps = 0.04f};
  attention.max_error = 0.9f;
  const Read read = ReadInChunks(gpu(), sequence, 600, attention);
  EXPECT_GT(read.stats.audits, 0);
  EXPECT_GT(read.stats.audit_error, 0);
  EXPECT_LT(read.stats.audit_error / static_cast<double>(read.stats.audits), 0.3);
  EXPECT_GT(read.stats.work.audit_macs, 0);
}

}  // namespace
}  // namespace quire

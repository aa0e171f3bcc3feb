#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "tests/core/runner/cuda_runner_fixture.h"

// The runner on a GPU against the one on the CPU, both in bfloat16 over a real model.
namespace quire {
namespace {

using namespace quire::testing;
using ::testing::HasSubstr;

TEST_F(CudaRunnerTest, SaysWhatItIs) {
  EXPECT_EQ(loaded_.device.kind, DeviceKind::kCuda);
  EXPECT_EQ(loaded_.compute, ComputeType::kBFloat16);
  EXPECT_GT(loaded_.weight_bytes, 30'000'000);
  EXPECT_LE(loaded_.kv_cache_bytes, 64 << 20);
}

TEST_F(CudaRunnerTest, ScoresAreTheCpusHoweverTheTextIsCut) {
  LoadedRunner cpu = Load("cpu");
  const Sequence sequence(1, 1500, 3);
  const auto want = ScoreAlone(*cpu.runner, sequence, 512);
  for (const size_t chunk : {1500, 512, 100, 65}) {
    SCOPED_TRACE(chunk);
    ExpectClose(ScoreAlone(gpu(), sequence, chunk), want);
  }
}

TEST_F(CudaRunnerTest, RowsOneByOneAreReadAsInChunks) {
  const Sequence sequence(2, 200, 0);
  ExpectClose(ScoreAlone(gpu(), sequence, 1), ScoreAlone(gpu(), sequence, 200));
}

TEST_F(CudaRunnerTest, WhoSharesAStepGetsWhatHeWouldGetAlone) {
  const std::vector<Sequence> sequences = {
      {3, 130, 0}, {4, 64, 10}, {5, 700, 20}, {6, 3, 40}};
  std::vector<std::vector<TokenScore>> alone;
  for (const Sequence& s : sequences) alone.push_back(ScoreAlone(gpu(), s, 50));
  // Chunks of 50 rows and single rows in one step, in turns.
  const auto together =
      ScoreTogether(gpu(), sequences, [](int step, size_t i, const Sequence& sequence) {
        const size_t left = sequence.tokens.size() - sequence.done;
        return sequence.Item(std::min<size_t>(left, (step + i) % 3 == 0 ? 1 : 50));
      });
  for (size_t i = 0; i < sequences.size(); ++i) {
    SCOPED_TRACE(i);
    ExpectClose(together[i], alone[i]);
  }
}

TEST_F(CudaRunnerTest, TheSameStepGivesTheSameBits) {
  const Sequence sequence(7, 900, 0);
  const auto first = ScoreAlone(gpu(), sequence, 300);
  const auto second = ScoreAlone(gpu(), sequence, 300);
  for (size_t i = 0; i < first.size(); ++i) {
    EXPECT_EQ(first[i].logprob, second[i].logprob);
    EXPECT_EQ(first[i].rank, second[i].rank);
  }
}

TEST_F(CudaRunnerTest, AlternativesBeginWithTheGreedyToken) {
  Sequence sequence(8, 100, 0);
  StepItem item = sequence.Item(100);
  item.sample = true;
  const auto plain = RunStep(gpu(), {.items = {item}});
  item.top_logprobs = 5;
  const auto listed = RunStep(gpu(), {.items = {item}});
  ASSERT_TRUE(plain[0].sampled.has_value() && listed[0].sampled.has_value());
  EXPECT_TRUE(plain[0].sampled->top.empty());
  EXPECT_EQ(listed[0].sampled->token, plain[0].sampled->token);
  EXPECT_EQ(listed[0].sampled->logprob, plain[0].sampled->logprob);
  EXPECT_EQ(plain[0].sampled->rank, 1);
  ASSERT_EQ(listed[0].sampled->top.size(), 5u);
  EXPECT_EQ(listed[0].sampled->top[0].token, plain[0].sampled->token);
  EXPECT_EQ(listed[0].sampled->top[0].logprob, plain[0].sampled->logprob);
  ASSERT_EQ(listed[0].scores.size(), 100u);
  for (size_t i = 0; i < 100; ++i) {
    const TokenScore& score = listed[0].scores[i];
    ASSERT_EQ(score.top.size(), 5u);
    EXPECT_EQ(score.logprob, plain[0].scores[i].logprob);
    if (score.rank > 5) continue;
    EXPECT_EQ(score.top[score.rank - 1].logprob, score.logprob);
  }
}

TEST_F(CudaRunnerTest, MoreAlternativesThanItListsAreRefused) {
  const Sequence sequence(18, 70, 0);
  StepItem item = sequence.Item(70);
  item.top_logprobs = 1025;
  const auto results = gpu().Step({.items = {item}});
  ASSERT_TRUE(results.ok());
  EXPECT_EQ((*results)[0].status.code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(std::string((*results)[0].status.message()),
              HasSubstr("top_logprobs is 1025; device cuda:0 lists at most 1024"));
}

// What is drawn depends on the logits, the settings, the seed and the step alone.
TEST_F(CudaRunnerTest, SampledTokensRepeat) {
  Sequence sequence(19, 120, 0);
  const auto tokens = [&](uint64_t seed) {
    std::vector<TokenId> drawn;
    sequence.done = 0;
    RunStep(gpu(), {.items = {sequence.Item(60)}});
    for (sequence.done = 60; sequence.done < 120; ++sequence.done) {
      StepItem item = sequence.Item(1);
      item.sample = true;
      item.sample_step = sequence.done;
      item.history = drawn;
      item.sampling = {.temperature = 1.2f,
                       .top_p = 0.97f,
                       .repetition_penalty = 1.1f,
                       .no_repeat_ngram = 3,
                       .seed = seed};
      const auto results = RunStep(gpu(), {.items = {item}});
      EXPECT_GT(results[0].sampled->rank, 0);
      drawn.push_back(results[0].sampled->token);
    }
    return drawn;
  };
  const std::vector<TokenId> first = tokens(3);
  EXPECT_EQ(tokens(3), first);
  EXPECT_NE(tokens(4), first);
}

TEST_F(CudaRunnerTest, ACopiedBlockIsReadLikeItsOriginal) {
  Sequence sequence(9, 100, 0);
  RunStep(gpu(), {.items = {sequence.Item(80)}});
  sequence.done = 80;
  const auto want = RunStep(gpu(), {.items = {sequence.Item(20)}});
  const BlockId original = sequence.blocks[1];
  sequence.blocks[1] = BlockId{30};
  const auto got =
      RunStep(gpu(), {.items = {sequence.Item(20)}, .copies = {{original, BlockId{30}}}});
  for (size_t i = 0; i < 20; ++i) {
    EXPECT_EQ(got[0].scores[i].logprob, want[0].scores[i].logprob);
  }
}

TEST_F(CudaRunnerTest, ImportanceIsTheCpus) {
  LoadedRunner cpu = Load("cpu");
  Sequence sequence(10, 600, 0);
  const auto importance = [&](ModelRunner& runner) {
    sequence.done = 0;
    RunStep(runner, {.items = {sequence.Item(400)}});
    sequence.done = 400;
    StepItem item = sequence.Item(200);
    item.importance = true;
    item.last_chunk = true;
    return RunStep(runner, {.items = {item}})[0].importance;
  };
  const AttentionProbe want = importance(*cpu.runner);
  const AttentionProbe got = importance(gpu());
  EXPECT_EQ(got.queries, want.queries);
  ASSERT_EQ(got.attention.size(), want.attention.size());
  double difference = 0, sum = 0;
  for (size_t i = 0; i < want.attention.size(); ++i) {
    difference += std::abs(got.attention[i] - want.attention[i]);
    sum += want.attention[i];
  }
  EXPECT_NEAR(sum, static_cast<double>(want.queries.size()), 0.01 * sum);
  EXPECT_LT(difference, 0.02 * sum);
}

TEST_F(CudaRunnerTest, BadItemsAreRefusedAndTheOthersComputed) {
  const Sequence sequence(11, 70, 0);
  StepItem outside = sequence.Item(70);
  const std::vector<BlockId> wrong = {BlockId{0}, BlockId{1 << 20}};
  outside.blocks = wrong;
  StepItem missing = sequence.Item(70);
  const std::vector<BlockId> dropped = {BlockId{0}, kNoBlock};
  missing.blocks = dropped;
  const auto results = gpu().Step({.items = {outside, sequence.Item(70), missing}});
  ASSERT_TRUE(results.ok()) << results.status();
  EXPECT_EQ((*results)[0].status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE((*results)[1].status.ok());
  EXPECT_EQ((*results)[1].scores.size(), 70u);
  EXPECT_EQ((*results)[2].status.code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(CudaRunnerTest, RefinedRowsReadLittleAndScoreAsDenseOnes) {
  const Sequence sequence(12, 3000, 0);
  const Decoded dense =
      DecodeRows(gpu(), sequence, 2800, {.mode = AttentionMode::kDense});
  const Decoded refined =
      DecodeRows(gpu(), sequence, 2800, {.mode = AttentionMode::kRefined, .eps = 0.04f});
  ExpectClose(refined.scores, dense.scores, kRefinedDifference);
  const AttentionWork& work = refined.stats.work;
  EXPECT_EQ(work.dense_columns, dense.stats.work.columns);
  EXPECT_LT(work.columns, work.dense_columns / 2);
  EXPECT_GT(work.columns, 200 * 10 * 8);
  EXPECT_GT(work.selection_bytes, 0);
  EXPECT_GT(work.statistics_bytes, 0);
  EXPECT_LT(work.executed_bytes(), work.dense_bytes);
  EXPECT_GT(refined.stats.sparse_rows, 0);
  EXPECT_GT(refined.stats.coverage, 0.5 * static_cast<double>(refined.stats.sparse_rows));
  EXPECT_LE(refined.stats.coverage,
            1.0001 * static_cast<double>(refined.stats.sparse_rows));
  EXPECT_GT(refined.stats.tail_risk, 0);
  EXPECT_EQ(dense.stats.sparse_rows, 0);
}

TEST_F(CudaRunnerTest, RefinedRowsThatReadEverythingAreDense) {
  const Sequence sequence(13, 700, 0);
  const Decoded dense = DecodeRows(gpu(), sequence, 600, {.mode = AttentionMode::kDense});
  const Decoded refined =
      DecodeRows(gpu(), sequence, 600, {.mode = AttentionMode::kRefined, .eps = 1e-6f});
  ExpectClose(refined.scores, dense.scores);
  // But for keys with a share of less than eps^2.
  EXPECT_NEAR(static_cast<double>(refined.stats.work.columns),
              static_cast<double>(dense.stats.work.columns), 100);
  EXPECT_NEAR(refined.stats.coverage, static_cast<double>(refined.stats.sparse_rows),
              .01);
}

// The index lives and dies with its page: another text in the same blocks.
TEST_F(CudaRunnerTest, ReusedBlocksAreIndexedAnew) {
  const AttentionOptions refined = {.mode = AttentionMode::kRefined, .eps = 0.04f};
  const Decoded alone = DecodeRows(gpu(), Sequence(14, 1100, 0), 1050, refined);
  DecodeRows(gpu(), Sequence(15, 1100, 0), 1050, refined);
  const Decoded again = DecodeRows(gpu(), Sequence(14, 1100, 0), 1050, refined);
  for (size_t i = 0; i < alone.scores.size(); ++i) {
    EXPECT_EQ(again.scores[i].logprob, alone.scores[i].logprob);
  }
  EXPECT_EQ(again.stats.work, alone.stats.work);
}

TEST_F(CudaRunnerTest, AutoIsDenseWhereRefinedDoesNotPay) {
  const Sequence sequence(16, 4200, 0);
  const Decoded small = DecodeRows(gpu(), sequence, 4150, {.mode = AttentionMode::kAuto});
  EXPECT_EQ(small.stats.sparse_rows, 0);
  EXPECT_EQ(small.stats.work.columns, small.stats.work.dense_columns);
}

TEST_F(CudaRunnerTest, AttentionWithoutAKernelIsRefusedByName) {
  Sequence sequence(17, 70, 0);
  const std::vector<std::pair<AttentionOptions, std::string>> refused = {
      {{.compact = true}, "attention.compact is true"},
      {{.tail = TailEstimate::kGroupMeans}, "attention.tail is not SAMPLED"},
      {{.index = KeyIndex::kPageMeans}, "attention.index is not FOUR_BIT"}};
  for (const auto& [attention, message] : refused) {
    StepItem item = sequence.Item(70);
    item.attention = attention;
    const auto results = gpu().Step({.items = {item}});
    ASSERT_TRUE(results.ok());
    EXPECT_EQ((*results)[0].status.code(), absl::StatusCode::kUnimplemented);
    EXPECT_THAT(std::string((*results)[0].status.message()),
                HasSubstr(message + "; device cuda:0"));
  }
}

TEST_F(CudaRunnerTest, WhatItHasNoKernelsForIsNamed) {
  const ModelFiles files = OpenModelFiles(kSmall).value();
  const absl::Status type =
      LoadRunner(files, {.compute = ComputeType::kFloat32, .device = "cuda"}).status();
  EXPECT_EQ(type.code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(std::string(type.message()), HasSubstr("compute is float32"));
  const absl::Status blocks =
      LoadRunner(files, {.tokens_per_block = 16, .device = "cuda"}).status();
  EXPECT_EQ(blocks.code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(std::string(blocks.message()), HasSubstr("have 16 tokens"));
}

}  // namespace
}  // namespace quire

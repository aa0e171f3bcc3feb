#include <gtest/gtest.h>

#include <vector>

#include "core/dga/attention_control.h"
#include "tests/core/runner/cuda_runner_fixture.h"

// FAITHFUL, audits and times of the runner on a GPU.
namespace quire {
namespace {

using namespace quire::testing;

// Focal tokens and groups from the first chunk on.
AttentionOptions Faithful() {
  AttentionOptions options = {.mode = AttentionMode::kFaithful};
  options.faithful.min_focal_tokens = 64;
  return options;
}

// Tokens of nearly equal importance fall on the other side: noise in the weights that
// changes dense scores by .05 changes these by .06, with whole_prompt by .18.
constexpr double kFaithfulDifference = 0.3;

double MeanDifference(const std::vector<TokenScore>& a,
                      const std::vector<TokenScore>& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += std::abs(a[i].logprob - b[i].logprob);
  return sum / static_cast<double>(a.size());
}

// A prompt in chunks of 300 rows, then row by row.
Read ReadAll(ModelRunner& runner, const Sequence& sequence, size_t prompt,
             const AttentionOptions& attention) {
  return ReadWhole(runner, sequence, attention, [prompt](Position done) {
    const size_t left = prompt - std::min<size_t>(prompt, done);
    return left > 0 ? std::min<size_t>(left, 300) : 1;
  });
}

class CudaModesTest : public CudaRunnerTest {};

TEST_F(CudaModesTest, FaithfulScoresAndCountsAreTheCpus) {
  LoadedRunner cpu = Load("cpu");
  const Sequence sequence(21, 1000, 0);
  for (const bool whole : {false, true}) {
    SCOPED_TRACE(whole);
    AttentionOptions options = Faithful();
    options.faithful.whole_prompt = whole;
    const Read want = ReadAll(*cpu.runner, sequence, 940, options);
    const Read got = ReadAll(gpu(), sequence, 940, options);
    const Read dense = ReadAll(gpu(), sequence, 940, {.mode = AttentionMode::kDense});
    const double difference = MeanDifference(got.scores, want.scores);
    EXPECT_LT(difference, kFaithfulDifference);
    EXPECT_LT(difference, MeanDifference(dense.scores, want.scores) / 2);
    const AttentionWork &a = got.stats.work, &b = want.stats.work;
    EXPECT_EQ(got.stats.sparse_rows > 0, true);
    EXPECT_EQ(a.dense_columns, b.dense_columns);
    EXPECT_EQ(a.selection_macs, b.selection_macs);
    EXPECT_EQ(a.statistics_macs, b.statistics_macs);
    // Which tokens are focal differs a little, and with it who sees them when.
    const auto near = [](int64_t x, int64_t y) {
      EXPECT_NEAR(static_cast<double>(x), static_cast<double>(y),
                  .01 * static_cast<double>(y));
    };
    near(a.columns, b.columns);
    near(a.attention_macs, b.attention_macs);
    near(a.expanded_columns, b.expanded_columns);
    near(got.stats.sparse_rows, want.stats.sparse_rows);
    EXPECT_NEAR(got.stats.coverage, want.stats.coverage, .02 * want.stats.coverage);
  }
}

TEST_F(CudaModesTest, FaithfulSequencesShareAStepWithOthers) {
  const std::vector<AttentionOptions> modes = {
      Faithful(), {.mode = AttentionMode::kDense}, Faithful()};
  const std::vector<Sequence> sequences = {{22, 500, 0}, {23, 400, 20}, {24, 450, 40}};
  std::vector<std::vector<TokenScore>> alone;
  for (size_t i = 0; i < 3; ++i) {
    alone.push_back(ReadAll(gpu(), sequences[i], 300, modes[i]).scores);
  }
  const auto together =
      ScoreTogether(gpu(), sequences, [&](int step, size_t i, const Sequence& sequence) {
        StepItem item = sequence.Item(step == 0 ? 300 : 1);
        item.attention = modes[i];
        return item;
      });
  for (size_t i = 0; i < 3; ++i) {
    SCOPED_TRACE(i);
    ASSERT_EQ(together[i].size(), alone[i].size());
    EXPECT_LT(MeanDifference(together[i], alone[i]), kFaithfulDifference);
  }
}

// With everything focal the rule is dense attention.
TEST_F(CudaModesTest, FaithfulWithEveryTokenFocalIsDense) {
  const Sequence sequence(25, 600, 0);
  AttentionOptions options = Faithful();
  options.faithful.focal_share = 1;
  ExpectClose(ReadAll(gpu(), sequence, 550, options).scores,
              ReadAll(gpu(), sequence, 550, {.mode = AttentionMode::kDense}).scores);
}

TEST_F(CudaModesTest, AReleasedSequencesStateIsForgotten) {
  const Sequence sequence(26, 700, 0);
  const Read first = ReadAll(gpu(), sequence, 600, Faithful());
  RunStep(gpu(), {.released = {sequence.id}});
  const Read again = ReadAll(gpu(), sequence, 600, Faithful());
  for (size_t i = 0; i < first.scores.size(); ++i) {
    EXPECT_EQ(again.scores[i].logprob, first.scores[i].logprob) << i;
  }
  EXPECT_EQ(again.stats.work, first.stats.work);
}

TEST_F(CudaModesTest, FaithfulPromptsAreProbedDensely) {
  LoadedRunner cpu = Load("cpu");
  Sequence sequence(27, 600, 0);
  const auto importance = [&](ModelRunner& runner) {
    StepItem item = sequence.Item(600);
    item.attention = Faithful();
    item.importance = true;
    item.last_chunk = true;
    return RunStep(runner, {.items = {item}})[0].importance;
  };
  const AttentionProbe want = importance(*cpu.runner), got = importance(gpu());
  EXPECT_EQ(got.queries, want.queries);
  ASSERT_EQ(got.attention.size(), want.attention.size());
  double difference = 0, sum = 0;
  for (size_t i = 0; i < want.attention.size(); ++i) {
    difference += std::abs(got.attention[i] - want.attention[i]);
    sum += want.attention[i];
  }
  EXPECT_LT(difference, 0.05 * sum);
}

// Rows 1279 of 1200..1300, as on the CPU: one in 256.
TEST_F(CudaModesTest, RefinedRowsAreAuditedWhereALimitIsSet) {
  const Sequence sequence(28, 1300, 0);
  AttentionOptions options = {.mode = AttentionMode::kRefined, .eps = 0.1f};
  const Decoded unlimited = DecodeRows(gpu(), sequence, 1200, options);
  EXPECT_EQ(unlimited.stats.audits, 0);
  options.max_error = 0.5f;
  const Decoded limited = DecodeRows(gpu(), sequence, 1200, options);
  EXPECT_EQ(limited.stats.audits, 1);
  EXPECT_GT(limited.stats.audit_error, 0);
  EXPECT_LT(limited.stats.audit_error, 0.5);
  EXPECT_EQ(limited.stats.max_audit_error, limited.stats.audit_error);
  EXPECT_EQ(limited.stats.sparse_rows, unlimited.stats.sparse_rows);
  // As much as dense attention of the row.
  EXPECT_EQ(limited.stats.work.audit_macs, 1280 * unlimited.stats.work.dense_macs /
                                               unlimited.stats.work.dense_columns *
                                               (unlimited.stats.sparse_rows / 100));
  // The audit changes nothing of what it looks at.
  ExpectClose(limited.scores, unlimited.scores);
}

TEST_F(CudaModesTest, AnAuditedErrorIsTheCpus) {
  LoadedRunner cpu = Load("cpu");
  const Sequence sequence(29, 1540, 0);
  const AttentionOptions options = {
      .mode = AttentionMode::kRefined, .eps = 0.1f, .max_error = 0.9f};
  const AttentionStats want = DecodeRows(*cpu.runner, sequence, 1535, options).stats;
  const AttentionStats got = DecodeRows(gpu(), sequence, 1535, options).stats;
  EXPECT_EQ(got.audits, 1);
  EXPECT_EQ(want.audits, 1);
  // Of as many layers, with other draws where rounding differs.
  EXPECT_NEAR(got.audit_error, want.audit_error, 0.4 * want.audit_error);
}

TEST_F(CudaModesTest, FaithfulRowsAreAuditedInChunksToo) {
  LoadedRunner cpu = Load("cpu");
  const Sequence sequence(30, 800, 0);
  AttentionOptions options = Faithful();
  options.max_error = 0.9f;
  const AttentionStats want = ReadAll(*cpu.runner, sequence, 700, options).stats;
  const AttentionStats got = ReadAll(gpu(), sequence, 700, options).stats;
  EXPECT_EQ(got.audits, 3);
  EXPECT_EQ(want.audits, 3);
  EXPECT_NEAR(got.audit_error, want.audit_error, 0.2 * want.audit_error);
  EXPECT_EQ(got.work.audit_macs, want.work.audit_macs);
}

// What the engine does with it: eps goes down, then the request is read densely.
TEST_F(CudaModesTest, WhoPassesItsLimitFallsBackToDense) {
  Sequence sequence(31, 2400, 0);
  AttentionControl control(
      {.mode = AttentionMode::kRefined, .eps = 0.2f, .max_error = 1e-4f});
  StepItem item = sequence.Item(1100);
  item.attention = control.options();
  RunStep(gpu(), {.items = {item}});
  AttentionStats last;
  for (sequence.done = 1100; sequence.done < 2400; ++sequence.done) {
    item = sequence.Item(1);
    item.attention = control.options();
    last = RunStep(gpu(), {.items = {item}})[0].attention;
    control.Add(last, false);
  }
  EXPECT_EQ(control.receipt().eps_lowered, kMaxEpsLowered);
  EXPECT_TRUE(control.receipt().fell_back);
  EXPECT_EQ(last.sparse_rows, 0);
  EXPECT_EQ(last.work.columns, last.work.dense_columns);
}

TEST_F(CudaModesTest, AttentionOfPromptsIsTimed) {
  Sequence sequence(32, 1100, 0);
  StepItem item = sequence.Item(1000);
  for (const AttentionOptions& attention :
       {AttentionOptions{.mode = AttentionMode::kDense}, Faithful()}) {
    item.attention = attention;
    const double seconds = RunStep(gpu(), {.items = {item}})[0].attention.seconds;
    EXPECT_GT(seconds, 0);
    EXPECT_LT(seconds, 60);
  }
  sequence.done = 1000;
  const StepItem token = sequence.Item(1);
  EXPECT_EQ(RunStep(gpu(), {.items = {token}})[0].attention.seconds, 0);
}

}  // namespace
}  // namespace quire

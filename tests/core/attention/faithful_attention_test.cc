#include "core/attention/faithful_attention.h"

#include <gtest/gtest.h>

#include "ATen/ops/eye.h"
#include "tests/core/attention/faithful_fixture.h"
#include "tests/support/attention_oracle.h"

namespace quire {
namespace {

using testing::AddDecodes;
using testing::AttentionOracle;
using testing::FaithfulCase;
using testing::FaithfulOracle;
using testing::FaithfulRun;
using testing::RandomCase;
using testing::RelativeError;
using testing::ToDoubles;

void ExpectSamePlan(const FaithfulLayer& state, const FaithfulOracle& oracle) {
  ASSERT_EQ(state.grouped_end, oracle.grouped_end());
  ASSERT_EQ(state.heads.size(), oracle.heads().size());
  for (size_t g = 0; g < state.heads.size(); ++g) {
    const FaithfulOracle::Head& wanted = oracle.heads()[g];
    std::vector<Position> focal, last;
    for (size_t i = 0; i < wanted.focal.size(); ++i) {
      if (wanted.focal[i]) focal.push_back(static_cast<Position>(i));
    }
    for (const auto& group : wanted.groups) {
      last.push_back(static_cast<Position>(group.members.back()));
    }
    ASSERT_EQ(state.heads[g].plan.focal, focal);
    ASSERT_EQ(state.heads[g].plan.last, last);
  }
}

void ExpectSameStats(const AttentionStats& stats, const FaithfulOracle& oracle) {
  EXPECT_EQ(stats.work.columns, oracle.work().columns);
  EXPECT_EQ(stats.work.attention_macs, oracle.work().attention_macs);
  EXPECT_EQ(stats.work.attention_bytes, oracle.work().attention_bytes);
  EXPECT_EQ(stats.work.selection_macs, oracle.work().selection_macs);
  EXPECT_EQ(stats.work.selection_bytes, oracle.work().selection_bytes);
  EXPECT_EQ(stats.work.statistics_macs, oracle.work().statistics_macs);
  EXPECT_EQ(stats.work.statistics_bytes, oracle.work().statistics_bytes);
  EXPECT_EQ(stats.work, oracle.work());  // and nothing else is counted
  EXPECT_EQ(stats.sparse_rows, oracle.sparse_rows());
  EXPECT_NEAR(stats.coverage, oracle.coverage(), 1e-3 + 1e-5 * oracle.coverage());
}

void ExpectEqualsPlainLoops(const FaithfulCase& c, uint32_t seed) {
  FaithfulRun run(c, seed);
  FaithfulOracle oracle(run.Problem());
  for (const int64_t rows : c.steps) {
    const at::Tensor out = run.Step(rows);
    const double error = RelativeError(ToDoubles(out), oracle.Step(rows));
    ASSERT_LT(error, c.type == at::kFloat ? 1e-4 : 2e-2) << "at token " << run.seen();
    ASSERT_NO_FATAL_FAILURE(ExpectSamePlan(run.state, oracle)) << run.seen();
  }
  EXPECT_FALSE(run.others_touched);
  ExpectSameStats(run.stats, oracle);
}

// With queries of zero and a bias of log m every token that is seen once weighs the same.
// Values are unit vectors: a row's output is the list of those weights.
void ExpectReadsEachTokenOnce(FaithfulCase c, uint32_t seed) {
  c.type = at::kFloat;
  c.head_dim = c.tokens();
  c.options.bias = GroupBias::kLogSize;
  FaithfulRun run(c, seed);
  run.q.zero_();
  run.v.copy_(at::eye(c.tokens()).unsqueeze(1).expand_as(run.v));
  int64_t row = 0;
  for (const at::Tensor& out : run.Run()) {
    for (int64_t i = 0; i < out.size(0); ++i, ++row) {
      const at::Tensor once = out[i] * static_cast<double>(row + 1) - 1;
      EXPECT_LT(once.narrow(1, 0, row + 1).abs().max().item<float>(), 1e-3) << row;
      EXPECT_FALSE(out[i].narrow(1, row + 1, c.tokens() - row - 1).any().item<bool>())
          << row;
    }
  }
}

// As a property of the plan alone, after every step and for every row, later ones too.
void ExpectPlanCoversEachTokenOnce(const FaithfulCase& c, uint32_t seed) {
  FaithfulRun run(c, seed);
  for (const int64_t rows : c.steps) {
    run.Step(rows);
    EXPECT_LT(run.seen() - run.state.grouped_end, RegroupTokens(c.options));
    for (const FaithfulLayer::Head& head : run.state.heads) {
      const std::vector<Position> others = NotFocal(head.plan, 0, run.state.grouped_end);
      const auto m = static_cast<size_t>(c.options.group_tokens);
      ASSERT_EQ(others.size(), head.plan.last.size() * m);
      for (size_t g = 0; g < head.plan.last.size(); ++g) {
        ASSERT_EQ(head.plan.last[g], others[g * m + m - 1]);
      }
      for (Position row = 0; row < run.seen(); ++row) {
        const RowView view = ViewOf(head.plan, row);
        ASSERT_EQ(
            view.focal + view.groups * c.options.group_tokens +
                static_cast<int64_t>(NotFocal(head.plan, view.raw_begin, row + 1).size()),
            row + 1);
      }
    }
  }
}

// Chunk by chunk, nothing that a later token holds changes a bit of an earlier output.
void ExpectLaterTokensChangeNothing(FaithfulCase c, uint32_t seed) {
  c.options.whole_prompt = false;
  FaithfulRun one(c, seed), other(c, seed);
  const auto changed =
      static_cast<int64_t>(std::mt19937(seed + 1)() % static_cast<uint32_t>(c.tokens()));
  other.q[changed].add_(1);
  other.k[changed].mul_(-3);
  other.v[changed].add_(100);
  int64_t begin = 0;
  for (const int64_t rows : c.steps) {
    const at::Tensor a = one.Step(rows), b = other.Step(rows);
    const int64_t before = std::clamp<int64_t>(changed - begin, 0, rows);
    EXPECT_TRUE(a.narrow(0, 0, before).equal(b.narrow(0, 0, before))) << begin;
    if (begin <= changed && changed < begin + rows) {
      EXPECT_FALSE(a[before].equal(b[before]));
    }
    begin += rows;
  }
}

// As published the choice of focal tokens looks ahead, but no value does.
void ExpectNoLaterValue(FaithfulCase c, uint32_t seed) {
  c.options.whole_prompt = true;
  c.steps = {c.tokens()};
  FaithfulRun one(c, seed), other(c, seed);
  const int64_t changed = c.tokens() / 2;
  other.v.narrow(0, changed, c.tokens() - changed).add_(100);
  const at::Tensor a = one.Step(c.tokens()), b = other.Step(c.tokens());
  EXPECT_TRUE(a.narrow(0, 0, changed).equal(b.narrow(0, 0, changed)));
}

// Ten random cases each: a process a case would take longer than the case.
class FaithfulRandomTest : public ::testing::TestWithParam<uint32_t> {
 protected:
  template <typename Check>
  void ForEachCase(const Check& check) {
    for (uint32_t seed = 10 * GetParam(); seed < 10 * GetParam() + 10; ++seed) {
      const FaithfulCase c = RandomCase(seed);
      SCOPED_TRACE(::testing::Message() << "seed " << seed << ": " << c);
      ASSERT_NO_FATAL_FAILURE(check(c, seed));
    }
  }
};

TEST_P(FaithfulRandomTest, EqualsPlainLoopsAndCountsWhatTheyCount) {
  ForEachCase(ExpectEqualsPlainLoops);
}

TEST_P(FaithfulRandomTest, EveryRowReadsEveryTokenAtOrBeforeItExactlyOnce) {
  ForEachCase(ExpectReadsEachTokenOnce);
}

TEST_P(FaithfulRandomTest, PlanCoversEveryTokenOnce) {
  ForEachCase(ExpectPlanCoversEachTokenOnce);
}

TEST_P(FaithfulRandomTest, LaterTokensChangeNoBitBefore) {
  ForEachCase(ExpectLaterTokensChangeNothing);
}

TEST_P(FaithfulRandomTest, WholePromptLeaksNoLaterValue) {
  ForEachCase(ExpectNoLaterValue);
}

INSTANTIATE_TEST_SUITE_P(Shapes, FaithfulRandomTest, ::testing::Range(0u, 6u));

void ExpectDense(const FaithfulCase& c) {
  SCOPED_TRACE(c);
  FaithfulRun run(c, 5);
  const std::vector<double> all =
      AttentionOracle({c.tokens(), c.heads, c.kv_heads, c.head_dim, 0, run.scale(),
                       ToDoubles(run.q), ToDoubles(run.k), ToDoubles(run.v)});
  int64_t begin = 0;
  for (const at::Tensor& out : run.Run()) {
    const int64_t row = c.heads * c.head_dim, end = begin + out.size(0);
    const std::vector<double> wanted(all.begin() + begin * row, all.begin() + end * row);
    EXPECT_LT(RelativeError(ToDoubles(out), wanted), c.type == at::kFloat ? 1e-4 : 2e-2)
        << begin;
    begin = end;
  }
  EXPECT_EQ(run.stats.work.columns, c.heads * c.tokens() * (c.tokens() + 1) / 2);
}

FaithfulCase PromptAndAnswer(bool whole_prompt, at::ScalarType type) {
  FaithfulCase c;
  c.type = type;
  c.heads = 6;
  c.kv_heads = 2;
  c.options.min_focal_tokens = 0;
  c.options.whole_prompt = whole_prompt;
  c.steps = {150, 1, 77, 3};
  AddDecodes(40, c.steps);
  return c;
}

class FaithfulDenseTest
    : public ::testing::TestWithParam<std::tuple<bool, at::ScalarType>> {
 protected:
  FaithfulCase c_ = std::apply(PromptAndAnswer, GetParam());
};

TEST_P(FaithfulDenseTest, GroupsOfOne) {
  c_.options.group_tokens = 1;
  for (const GroupBias bias :
       {GroupBias::kNone, GroupBias::kLogSize, GroupBias::kEntropy}) {
    c_.options.bias = bias;
    ExpectDense(c_);
  }
}

TEST_P(FaithfulDenseTest, AllFocal) {
  c_.options.focal_share = 1;
  ExpectDense(c_);
}

TEST_P(FaithfulDenseTest, ShorterThanTheLeastFocalTokens) {
  c_.options.min_focal_tokens = static_cast<int32_t>(c_.tokens());
  ExpectDense(c_);
}

TEST_P(FaithfulDenseTest, ShorterThanAGroup) {
  c_.options.group_tokens = static_cast<int32_t>(c_.tokens());
  ExpectDense(c_);
}

TEST_P(FaithfulDenseTest, OneToken) {
  c_.steps = {1};
  ExpectDense(c_);
}

INSTANTIATE_TEST_SUITE_P(
    Forms, FaithfulDenseTest,
    ::testing::Combine(::testing::Bool(), ::testing::Values(at::kFloat, at::kBFloat16)));

// While decoding, raw tokens gather until floor(1.1 m); then one group and the rest
// focal.
TEST(FaithfulDecodeTest, RegroupsAtElevenTenthsOfAGroup) {
  FaithfulCase c;
  c.options.min_focal_tokens = 0;
  c.steps = {160};
  FaithfulRun run(c, 3);
  run.Step(1);  // nothing is seen yet: raw until a chunk, or enough tokens, follow
  EXPECT_EQ(run.state.grouped_end, 0);
  run.Step(102);
  const GroupPlan& plan = run.state.heads[0].plan;
  EXPECT_EQ(run.state.grouped_end, 103);
  EXPECT_EQ(plan.focal.size(), 10u + (103 - 10) % 16);
  EXPECT_EQ(plan.last.size(), 5u);
  for (int i = 0; i < 16; ++i) run.Step(1);
  EXPECT_EQ(run.state.grouped_end, 103);
  run.Step(1);
  EXPECT_EQ(run.state.grouped_end, 120);
  EXPECT_EQ(plan.focal.size(), 24u);
  EXPECT_EQ(plan.last.size(), 6u);
  EXPECT_GE(plan.last.back(), 118);  // the group's last member is the last or the one
                                     // before, if the last is the focal one
}

// One-token steps from the start: dense while r(L) asks for all, then as decoding.
TEST(FaithfulDecodeTest, KeepsTheLeastFocalTokensWithoutAPrompt) {
  FaithfulCase c;
  c.options.min_focal_tokens = 34;
  AddDecodes(51, c.steps);
  FaithfulRun run(c, 3);
  run.Run();
  EXPECT_EQ(run.state.heads[0].plan.focal.size(), 35u);
  EXPECT_EQ(run.state.heads[0].plan.last.size(), 1u);
}

// A group costs its own size, however many there are already.
TEST(FaithfulDecodeTest, StateGrowsByAQuarter) {
  FaithfulCase c;
  c.options.min_focal_tokens = 0;
  c.options.group_tokens = 2;
  c.steps = {200};
  AddDecodes(100, c.steps);
  FaithfulRun run(c, 3);
  run.Step(200);
  int64_t moved = 0;
  const void* at = run.state.heads[0].keys.const_data_ptr();
  for (int i = 0; i < 100; ++i) {
    run.Step(1);
    const FaithfulLayer::Head& head = run.state.heads[0];
    const auto groups = static_cast<int64_t>(head.plan.last.size());
    EXPECT_LE(head.keys.size(0), groups + groups / 4 + 8);
    EXPECT_EQ(head.values.size(0), head.keys.size(0));
    EXPECT_EQ(head.bias.size(0), head.keys.size(0));
    moved += at != head.keys.const_data_ptr();
    at = head.keys.const_data_ptr();
  }
  EXPECT_LE(moved, 3);
}

// Queries pool with the run's last member's: that query's favourite dominates the group.
TEST(FaithfulGroupTest, PoolsByTheLastMembersQuery) {
  FaithfulCase c;
  c.heads = 1;
  c.options.focal_share = .01f;
  c.options.min_focal_tokens = 0;
  c.options.group_tokens = 4;
  c.options.whole_prompt = true;
  c.steps = {8};
  FaithfulRun run(c, 9);
  run.q.zero_();
  run.k.zero_();
  run.k[1][0][0] = 1;
  run.q[3][0][0] = 400;  // of the first run's last member: all for token 1
  run.q[2][0][0] = -400;
  run.Step(8);
  const FaithfulLayer::Head& head = run.state.heads[0];
  ASSERT_EQ(head.plan.last, (std::vector<Position>{3, 7}));
  EXPECT_TRUE(head.values[0].allclose(run.v[1][0]));
  EXPECT_TRUE(head.values[1].allclose(run.v.narrow(0, 4, 4).mean(0)[0]));
  EXPECT_TRUE(head.keys[0].allclose(run.k[1][0]));
}

// Attention gathers on one token: it is the focal one.
TEST(FaithfulGroupTest, TheMostAttendedTokensAreFocal) {
  for (const bool whole : {false, true}) {
    FaithfulCase c;
    c.options.sampled_queries = 1;  // the last: many early ones see little but token 0
    c.options.focal_share = .02f;
    c.options.min_focal_tokens = 0;
    c.options.group_tokens = 7;
    c.options.whole_prompt = whole;
    c.steps = {100};
    FaithfulRun run(c, 9);
    run.q.fill_(1);
    run.k.zero_();
    run.k[37].fill_(3);
    run.k[61].fill_(2);
    run.Step(100);
    EXPECT_EQ(run.state.heads[0].plan.focal, (std::vector<Position>{37, 61}));
  }
}

}  // namespace
}  // namespace quire

#include <random>
#include <set>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/core/engine/batching_fixture.h"

// Several requests in one step.
namespace quire {
namespace {

using ::testing::ElementsAre;
using ::testing::ElementsAreArray;
using ::testing::IsEmpty;

class BatchingTest : public BatchingFixture {};

TEST_F(BatchingTest, DecodesComeFirstThenPromptsWithinTheRows) {
  Start();
  const auto requests = SubmitTogether(
      {Generate(Tokens(6, 0), 3), Generate(Tokens(10, 20), 2), Score(Tokens(5, 40))});
  for (const Submitted& request : requests) {
    EXPECT_EQ(request.record->Wait().status, absl::OkStatus());
  }
  EXPECT_THAT(StepTexts(),
              ElementsAre("1:0+1s", "2:0+6s 3:0+10s", "2:6+1s 3:10+1s 4:0+4", "2:7+1s"));
  EXPECT_THAT(requests[0].record->events(),
              ElementsAre("progress 6/6", "token 6", "token 7", "token 8"));
  EXPECT_THAT(requests[1].record->events(),
              ElementsAre("progress 10/10", "token 30", "token 31"));
  EXPECT_THAT(requests[2].record->events(),
              ElementsAre("progress 4/4", "scores 41 42 43 44"));
}

TEST_F(BatchingTest, APromptTakesWhatTheOthersLeave) {
  Start();
  const auto requests =
      SubmitTogether({Generate(Tokens(3, 0), 4), Generate(Tokens(40, 20), 1)});
  requests[1].record->Wait();
  EXPECT_THAT(StepTexts(), ElementsAre("1:0+1s", "2:0+3s 3:0+13", "2:3+1s 3:13+15",
                                       "2:4+1s 3:28+12s", "2:5+1s"));
  EXPECT_THAT(ProgressOf(*requests[1].record), ElementsAre("13/40", "28/40", "40/40"));
}

TEST_F(BatchingTest, TimingsAreEachRequestsOwn) {
  Start();
  const auto requests =
      SubmitTogether({Generate(Tokens(3, 0), 4), Generate(Tokens(40, 20), 1)});
  const Timings first = requests[0].record->Wait().timings;
  EXPECT_EQ(first.queue, absl::Seconds(1));
  EXPECT_EQ(first.prefill, absl::Seconds(1));
  EXPECT_EQ(first.decode, absl::Seconds(3));
  const Timings second = requests[1].record->Wait().timings;
  EXPECT_EQ(second.queue, absl::Seconds(1));
  EXPECT_EQ(second.prefill, absl::Seconds(3));
  EXPECT_EQ(second.decode, absl::ZeroDuration());
}

// Blocks of requests that run at the same time are different ones.
TEST_F(BatchingTest, BlocksAreNotSharedByAccident) {
  Start();
  const auto requests = SubmitTogether(
      {Generate(Tokens(4, 0), 9), Generate(Tokens(4, 0), 9), Score(Tokens(9, 0))});
  for (const Submitted& request : requests) request.record->Wait();
  for (const RecordedStep& step : model_.steps()) {
    std::set<BlockId> used;
    size_t count = 0;
    for (const RecordedItem& item : step.items) {
      used.insert(item.blocks.begin(), item.blocks.end());
      count += item.blocks.size();
    }
    EXPECT_EQ(used.size(), count) << Text(step);
  }
  ExpectAllBlocksBack();
}

TEST_F(BatchingTest, OutputsDoNotDependOnWhoElseIsThere) {
  model_.set_next(NextOfAll);
  Start();
  std::mt19937 random(5);
  std::vector<EngineRequest> requests;
  std::vector<std::vector<TokenId>> wanted;
  for (int i = 0; i < 40; ++i) {
    std::vector<TokenId> tokens(2 + random() % 50);
    for (TokenId& token : tokens) token = static_cast<TokenId>(random() % 100);
    if (i % 3 == 0) {
      wanted.emplace_back(tokens.begin() + 1, tokens.end());
      requests.push_back(Score(std::move(tokens)));
    } else {
      const auto count = static_cast<int32_t>(1 + random() % 20);
      wanted.push_back(AnswerOfAll(tokens, count));
      requests.push_back(Generate(std::move(tokens), count));
    }
  }
  const auto submitted = SubmitTogether(std::move(requests));
  for (size_t i = 0; i < submitted.size(); ++i) {
    EXPECT_EQ(submitted[i].record->Wait().status, absl::OkStatus());
    EXPECT_EQ(ReportedTokens(*submitted[i].record), wanted[i]) << i;
  }
  size_t most = 0;
  for (const RecordedStep& step : model_.steps()) {
    size_t rows = 0;
    for (const RecordedItem& item : step.items) rows += item.tokens.size();
    EXPECT_LE(rows, 16u) << Text(step);
    EXPECT_LE(step.items.size(), 8u) << Text(step);
    most = std::max(most, step.items.size());
  }
  EXPECT_EQ(most, 8u);
  ExpectAllBlocksBack();
}

// What a draw depends on: the seed, the step within the answer, and the history.
TEST_F(BatchingTest, EachSequenceDrawsWithItsOwnSeedAndStep) {
  Start();
  std::vector<EngineRequest> requests;
  for (uint64_t seed = 0; seed < 6; ++seed) {
    EngineRequest request =
        Generate(Tokens(1 + 3 * static_cast<int64_t>(seed), 10 * seed), 5);
    std::get<GenerateRequest>(request.work).sampling = {.temperature = 1, .seed = seed};
    requests.push_back(std::move(request));
  }
  const auto submitted = SubmitTogether(std::move(requests));
  for (size_t i = 0; i < submitted.size(); ++i) {
    submitted[i].record->Wait();
    int64_t step = 0;
    for (const RecordedItem& item : ItemsOf(submitted[i].id)) {
      EXPECT_EQ(item.sampling.seed, i);
      EXPECT_EQ(item.sample_step, step);
      EXPECT_EQ(item.history.size(), static_cast<size_t>(step));
      step += item.sample ? 1 : 0;
    }
    EXPECT_EQ(step, 5);
  }
}

TEST_F(BatchingTest, MaxRunningHoldsOthersBack) {
  options_.max_running = 2;
  Start();
  const auto requests =
      SubmitTogether({Generate({1}, 2), Generate({2}, 4), Generate({3}, 2)});
  requests[1].record->Wait();
  EXPECT_THAT(StepTexts(), ElementsAre("1:0+1s", "2:0+1s 3:0+1s", "2:1+1s 3:1+1s",
                                       "3:2+1s 4:0+1s", "3:3+1s 4:1+1s"));
}

TEST_F(BatchingTest, OnlySoManyLongPromptsAtATimeAndShortOnesPassThem) {
  options_.long_prompt_tokens = 12;
  options_.max_long_prefills = 1;
  Start();
  const auto requests =
      SubmitTogether({Generate(Tokens(12, 0), 2), Generate(Tokens(12, 20), 2),
                      Generate(Tokens(3, 40), 3)});
  for (const Submitted& request : requests) request.record->Wait();
  EXPECT_THAT(StepTexts(), ElementsAre("1:0+1s", "4:0+3s 2:0+12s",
                                       "2:12+1s 4:3+1s 3:0+12s", "3:12+1s 4:4+1s"));
}

TEST_F(BatchingTest, TwoLongPromptsAreReadSideBySideIfAllowed) {
  options_.long_prompt_tokens = 12;
  options_.max_long_prefills = 2;
  Start();
  const auto requests =
      SubmitTogether({Generate(Tokens(12, 0), 1), Generate(Tokens(12, 20), 1),
                      Generate(Tokens(3, 40), 1)});
  for (const Submitted& request : requests) request.record->Wait();
  EXPECT_THAT(StepTexts(), ElementsAre("1:0+1s", "4:0+3s 2:0+12s 3:0+1", "3:1+11s"));
}

TEST_F(BatchingTest, TheMoreUrgentRunFirst) {
  options_.max_running = 1;
  Start();
  const auto requests = SubmitTogether(
      {WithPriority(Generate({1}, 1), -2), WithPriority(Generate({2}, 1), 0),
       WithPriority(Generate({3}, 1), 2), WithPriority(Generate({4}, 1), 0)});
  requests[0].record->Wait();
  EXPECT_THAT(StepTexts(), ElementsAre("1:0+1s", "4:0+1s", "3:0+1s", "5:0+1s", "2:0+1s"));
}

TEST_F(BatchingTest, ATenantWithManyRequestsDoesNotPushAnotherBack) {
  options_.max_running = 1;
  Start();
  const auto requests = SubmitTogether(
      {OfTenant(Generate({1, 1}, 1), "a"), OfTenant(Generate({2, 2}, 1), "a"),
       OfTenant(Generate({3, 3}, 1), "a"), OfTenant(Generate({4}, 1), "b"),
       OfTenant(Generate({5}, 1), "b")});
  requests[2].record->Wait();
  // Served: a 2; b 1, b 2; then a, who was first, to the end.
  EXPECT_THAT(StepTexts(),
              ElementsAre("1:0+1s", "2:0+2s", "5:0+1s", "6:0+1s", "3:0+2s", "4:0+2s"));
  EXPECT_EQ(engine_->stats().tenants, 0);
}

TEST_F(BatchingTest, GapsBetweenTokensAreReported) {
  RecordingObserver observer;
  Start(&observer);
  SubmitTogether({Generate({1}, 3), Generate(Tokens(20, 0), 2)});
  engine_->Drain(absl::InfiniteFuture());
  std::vector<std::vector<absl::Duration>> gaps;
  for (const auto& step : observer.steps()) gaps.push_back(step.gaps);
  const absl::Duration second = absl::Seconds(1);
  EXPECT_THAT(gaps, ElementsAre(IsEmpty(), IsEmpty(), ElementsAre(second),
                                ElementsAre(second, second)));
}

AttentionStats SumOf(const std::array<AttentionStats, kAttentionModes>& modes) {
  AttentionStats sum;
  for (const AttentionStats& mode : modes) sum += mode;
  return sum;
}

struct Sums {
  int64_t prompt_tokens = 0, generated_tokens = 0, recomputed_tokens = 0;
  AttentionStats prefill, decode;
};

Sums SumOf(const std::vector<RecordingObserver::Step>& steps) {
  Sums sums;
  for (const auto& [report, gaps] : steps) {
    sums.prompt_tokens += report.prompt_tokens;
    sums.generated_tokens += report.generated_tokens;
    sums.recomputed_tokens += report.recomputed_tokens;
    sums.prefill += SumOf(report.prefill);
    sums.decode += SumOf(report.decode);
  }
  return sums;
}

void ExpectSame(const AttentionStats& a, const AttentionStats& b) {
  EXPECT_EQ(a.work, b.work);
  EXPECT_EQ(a.sparse_rows, b.sparse_rows);
  EXPECT_EQ(a.audits, b.audits);
  EXPECT_NEAR(a.seconds, b.seconds, 1e-9);
  EXPECT_NEAR(a.coverage, b.coverage, 1e-9);
  EXPECT_NEAR(a.tail_risk, b.tail_risk, 1e-9);
}

EngineRequest RandomRequest(std::mt19937& random) {
  const auto pick = [&](auto n) { return static_cast<int32_t>(random() % n); };
  AttentionOptions attention{.mode = static_cast<AttentionMode>(pick(4))};
  attention.min_sparse_tokens = 200;
  if (pick(6) == 0) attention.max_error = 0.5f;
  std::vector<TokenId> tokens =
      Tokens(2 + pick(20) + 190 * (pick(10) == 0), 30 * pick(3));
  EngineRequest request = pick(3) == 0 ? Score(std::move(tokens))
                                       : Generate(std::move(tokens), 30 + pick(60));
  return WithAttention(OfTenant(std::move(request), absl::StrCat(pick(3))), attention);
}

class StepReportTest : public BatchingFixture,
                       public testing::WithParamInterface<PrefixCaching> {
 protected:
  // Cancels, failing items, a step that fails, preemptions, eps lowered.
  void SetUp() override {
    options_.kv.num_blocks = 75;
    options_.model.max_positions = 400;
    options_.prefix_caching = GetParam();
    model_.set_audit_error([](const AttentionOptions&) { return 0.7; });
    model_.set_fail_item([](const StepItem& item) {
      return static_cast<uint64_t>(item.id) % 10 == 0 && item.begin >= 24
                 ? absl::DataLossError("page")
                 : absl::OkStatus();
    });
    model_.FailStep(20, absl::UnavailableError("cable"));
    model_.set_on_step([this](const StepInput& input) {
      clock_.Advance(absl::Seconds(1));
      if (model_.num_steps() % 12 == 0) engine_->Cancel(input.items.back().id);
    });
    Start(&observer_);
  }

  RecordingObserver observer_;
};

TEST_P(StepReportTest, TheStepsAddUpToTheRequests) {
  std::mt19937 random(11);
  std::vector<EngineRequest> requests;
  for (int i = 0; i < 50; ++i) requests.push_back(RandomRequest(random));
  const auto submitted = SubmitTogether(std::move(requests));
  Usage usage{.prompt_tokens = 1, .generated_tokens = 1};
  AttentionStats prefill = FakeAttention({}, 0, 1), decode;  // SubmitTogether's own
  for (const Submitted& request : submitted) {
    const Finished finished = request.record->Wait();
    usage += finished.usage;
    prefill += finished.attention.prefill;
    decode += finished.attention.decode;
  }
  engine_->Drain(absl::InfiniteFuture());
  const Sums sums = SumOf(observer_.steps());
  EXPECT_EQ(sums.prompt_tokens, usage.prompt_tokens - usage.cached_tokens);
  EXPECT_EQ(sums.generated_tokens, usage.generated_tokens);
  ExpectSame(sums.prefill, prefill);
  ExpectSame(sums.decode, decode);
  const bool off = GetParam() == PrefixCaching::kOff;
  EXPECT_EQ(usage.cached_tokens > 0, !off);
  EXPECT_TRUE(!off || sums.recomputed_tokens > 0);
  const EngineStats stats = engine_->stats();
  EXPECT_EQ(stats.steps, static_cast<int64_t>(observer_.steps().size()));
  EXPECT_EQ(stats.prompt_tokens, sums.prompt_tokens);
  EXPECT_EQ(stats.generated_tokens, sums.generated_tokens);
  EXPECT_EQ(stats.cached_tokens, usage.cached_tokens);
  EXPECT_GT(stats.preemptions, 0);
  EXPECT_EQ(stats.preemptions, static_cast<int64_t>(observer_.preempted().size()));
  EXPECT_EQ(observer_.ends().size(), 51u);
  ExpectAllBlocksBack();
}

INSTANTIATE_TEST_SUITE_P(WithAndWithoutACache, StepReportTest,
                         testing::Values(PrefixCaching::kOff, PrefixCaching::kShared));

}  // namespace
}  // namespace quire

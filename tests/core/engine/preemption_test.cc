#include <random>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/core/engine/batching_fixture.h"

// A cache that is too small for all answers at once. Who gives its blocks up is computed
// again later, and nobody can tell.
namespace quire {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

class PreemptionTest : public BatchingFixture {
 protected:
  PreemptionTest() {
    options_.kv.num_blocks = 12;
    model_.set_next(NextOfAll);
  }

  void ExpectAnswer(const Submitted& request, const std::vector<TokenId>& prompt,
                    int64_t count) {
    const Finished finished = request.record->Wait();
    EXPECT_EQ(finished.status, absl::OkStatus());
    EXPECT_EQ(finished.usage, (Usage{.prompt_tokens = static_cast<int64_t>(prompt.size()),
                                     .cached_tokens = finished.usage.cached_tokens,
                                     .generated_tokens = count}));
    EXPECT_EQ(ReportedTokens(*request.record), AnswerOfAll(prompt, count));
  }

  RecordingObserver observer_;
};

TEST_F(PreemptionTest, TheLastInLineGivesWayAndIsComputedAgain) {
  Start(&observer_);
  const auto requests =
      SubmitTogether({Generate(Tokens(8, 0), 30), Generate(Tokens(8, 50), 30)});
  ExpectAnswer(requests[0], Tokens(8, 0), 30);
  ExpectAnswer(requests[1], Tokens(8, 50), 30);
  EXPECT_THAT(ProgressOf(*requests[1].record), ElementsAre("8/8"));
  const std::vector<std::string> steps = StepTexts();
  // At 24 tokens each has half of the blocks.
  EXPECT_EQ(steps[17], "2:23+1s 3:23+1s");
  EXPECT_EQ(steps[18], "2:24+1s");
  EXPECT_EQ(steps[30], "2:36+1s");
  EXPECT_EQ(steps[31], "3:0+16");
  EXPECT_EQ(steps[32], "3:16+9s");
  EXPECT_EQ(steps[33], "3:25+1s");
  EXPECT_THAT(observer_.preempted(), ElementsAre(requests[1].id));
  EXPECT_EQ(engine_->stats().preemptions, 1);
  ExpectAllBlocksBack();
}

TEST_F(PreemptionTest, IsReported) {
  Start(&observer_);
  const auto requests =
      SubmitTogether({Generate(Tokens(8, 0), 30), Generate(Tokens(8, 50), 30)});
  const Timings timings = requests[1].record->Wait().timings;
  engine_->Drain(absl::InfiniteFuture());
  EXPECT_EQ(timings.queue, absl::Seconds(1));
  EXPECT_EQ(timings.prefill, absl::Seconds(1));
  EXPECT_EQ(timings.decode, absl::Seconds(16 + 13 + 14));
  const auto steps = observer_.steps();
  EXPECT_EQ(steps[31].report.recomputed_tokens, 16);
  EXPECT_EQ(steps[31].report.prompt_tokens, 0);
  EXPECT_EQ(steps[31].report.sequences, 1);
  EXPECT_EQ(steps[32].report.recomputed_tokens, 8);  // and one that is new
  EXPECT_EQ(steps[32].report.generated_tokens, 1);
  EXPECT_THAT(steps[32].gaps, ElementsAre(absl::Seconds(15)));
  const auto ends = observer_.ends();
  EXPECT_EQ(ends[1].report.preemptions, 0);
  EXPECT_EQ(ends[2].report.preemptions, 1);
  EXPECT_EQ(ends[2].report.wasted_tokens, 0);
}

// Its pages stay in the prefix cache, until the other one needs their blocks: four of
// six, the last ones first.
TEST_F(PreemptionTest, WhatIsStillCachedIsNotComputedAgain) {
  options_.prefix_caching = PrefixCaching::kPerTenant;
  Start(&observer_);
  const auto requests =
      SubmitTogether({Generate(Tokens(8, 0), 30), Generate(Tokens(8, 50), 30)});
  ExpectAnswer(requests[0], Tokens(8, 0), 30);
  ExpectAnswer(requests[1], Tokens(8, 50), 30);
  EXPECT_EQ(requests[1].record->Wait().usage.cached_tokens, 0);
  EXPECT_TRUE(StepTexts()[31].starts_with("3:8+"));
  int64_t recomputed = 0;
  for (const auto& step : observer_.steps()) recomputed += step.report.recomputed_tokens;
  EXPECT_EQ(recomputed, 16);
  ExpectAllBlocksBack();
}

TEST_F(PreemptionTest, AScoreTellsNothingTwice) {
  options_.chunk_tokens = 2;
  options_.max_running = 2;
  Start(&observer_);
  const auto requests =
      SubmitTogether({Generate(Tokens(4, 0), 30), Score(Tokens(25, 50))});
  ExpectAnswer(requests[0], Tokens(4, 0), 30);
  const Finished finished = requests[1].record->Wait();
  EXPECT_EQ(finished.status, absl::OkStatus());
  EXPECT_EQ(finished.usage, (Usage{.prompt_tokens = 24}));
  EXPECT_EQ(ReportedTokens(*requests[1].record), Tokens(24, 51));
  engine_->Drain(absl::InfiniteFuture());
  EXPECT_THAT(observer_.preempted(), ElementsAre(requests[1].id));
  int64_t done = 0, recomputed = 0;
  for (const RecordedItem& item : ItemsOf(requests[1].id)) {
    if (item.begin < done) recomputed += static_cast<int64_t>(item.tokens.size());
    done = std::max<int64_t>(done, item.begin + item.tokens.size());
  }
  EXPECT_EQ(recomputed, 20);
  std::vector<std::string> wanted;
  for (int i = 1; i <= 20; ++i) wanted.push_back(absl::StrCat(i, "/24"));
  wanted.insert(wanted.end(), {"22/24", "24/24"});
  EXPECT_EQ(ProgressOf(*requests[1].record), wanted);
}

class PinnedTest : public PreemptionTest,
                   public testing::WithParamInterface<AttentionOptions> {};

// The first grows until there is no block left; the second is last in line.
TEST_P(PinnedTest, GivesNothingUp) {
  Start(&observer_);
  const auto requests =
      SubmitTogether({Generate(Tokens(3, 0), 30),
                      WithAttention(Generate(Tokens(4, 50), 25), GetParam())});
  ExpectAnswer(requests[0], Tokens(3, 0), 30);
  ExpectAnswer(requests[1], Tokens(4, 50), 25);
  EXPECT_EQ(ItemsOf(requests[1].id)[0].blocks.size(), 7u);  // all that it may need
  engine_->Drain(absl::InfiniteFuture());
  EXPECT_THAT(observer_.preempted(), ElementsAre(requests[0].id));
}

INSTANTIATE_TEST_SUITE_P(
    , PinnedTest,
    testing::Values(AttentionOptions{.mode = AttentionMode::kFaithful},
                    AttentionOptions{.mode = AttentionMode::kRefined, .compact = true},
                    AttentionOptions{.max_error = 0.5f}));

TEST_F(PreemptionTest, WhoIsNotPinnedGivesWay) {
  Start(&observer_);
  const auto requests =
      SubmitTogether({Generate(Tokens(3, 0), 30), Generate(Tokens(4, 50), 25)});
  ExpectAnswer(requests[1], Tokens(4, 50), 25);
  EXPECT_EQ(ItemsOf(requests[1].id)[0].blocks.size(), 2u);
  engine_->Drain(absl::InfiniteFuture());
  EXPECT_THAT(observer_.preempted(), ElementsAre(requests[1].id));
}

TEST_F(PreemptionTest, TheMoreUrgentKeepsItsBlocks) {
  Start(&observer_);
  const auto requests = SubmitTogether(
      {WithPriority(Generate(Tokens(8, 0), 30), -1), Generate(Tokens(8, 50), 30)});
  ExpectAnswer(requests[0], Tokens(8, 0), 30);
  ExpectAnswer(requests[1], Tokens(8, 50), 30);
  engine_->Drain(absl::InfiniteFuture());
  EXPECT_THAT(observer_.preempted(), ElementsAre(requests[0].id));
}

class ManyPreemptionsTest : public PreemptionTest,
                            public testing::WithParamInterface<PrefixCaching> {};

TEST_P(ManyPreemptionsTest, NobodyCanTell) {
  options_.kv.num_blocks = 24;
  options_.prefix_caching = GetParam();
  Start(&observer_);
  std::mt19937 random(7);
  std::vector<EngineRequest> requests;
  for (TokenId i = 0; i < 40; ++i) {
    std::vector<TokenId> tokens = Tokens(2 + random() % 12, i % 4 * 20);
    tokens.push_back(i);
    const auto count = static_cast<int32_t>(20 + random() % 50);
    requests.push_back(i % 5 == 0 ? Score(Tokens(10 + count, i))
                                  : Generate(tokens, count));
  }
  const auto submitted = SubmitTogether(requests);
  for (size_t i = 0; i < submitted.size(); ++i) {
    if (const auto* generate = std::get_if<GenerateRequest>(&requests[i].work)) {
      ExpectAnswer(submitted[i], generate->prompt, generate->max_new_tokens);
      continue;
    }
    const auto& tokens = std::get<ScoreRequest>(requests[i].work).tokens;
    EXPECT_EQ(submitted[i].record->Wait().status, absl::OkStatus());
    EXPECT_EQ(ReportedTokens(*submitted[i].record),
              std::vector<TokenId>(tokens.begin() + 1, tokens.end()));
  }
  for (const Submitted& request : submitted) {
    int64_t done = 0;
    for (const std::string& progress : ProgressOf(*request.record)) {
      EXPECT_GT(std::stoi(progress), done);
      done = std::stoi(progress);
    }
  }
  EXPECT_GT(engine_->stats().preemptions, 10);
  ExpectAllBlocksBack();
}

INSTANTIATE_TEST_SUITE_P(WithAndWithoutACache, ManyPreemptionsTest,
                         testing::Values(PrefixCaching::kOff, PrefixCaching::kPerTenant,
                                         PrefixCaching::kShared));

}  // namespace
}  // namespace quire

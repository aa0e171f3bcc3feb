#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/core/engine/batching_fixture.h"

// Requests that nobody waits for: computed when nobody else could be, and seen by nobody.
namespace quire {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

EngineRequest InBackground(EngineRequest request, int64_t measure_from = 0) {
  request.background = Background{.measure_from = measure_from};
  return request;
}

EngineRequest Forced(std::vector<TokenId> prompt, std::vector<TokenId> answer) {
  const auto count = static_cast<int32_t>(answer.size());
  return {.work = GenerateRequest{.prompt = std::move(prompt),
                                  .max_new_tokens = count,
                                  .forced = std::move(answer)}};
}

class BackgroundTest : public BatchingFixture {
 protected:
  // Requests of others come while the background request's first step is under way.
  std::vector<Submitted> SubmitBehind(EngineRequest background,
                                      std::vector<EngineRequest> others) {
    model_.Block();
    std::vector<Submitted> submitted = {Submit(std::move(background))};
    model_.WaitUntilBlocked();
    for (EngineRequest& request : others) submitted.push_back(Submit(std::move(request)));
    model_.Release();
    return submitted;
  }

  RecordingObserver observer_;
};

TEST_F(BackgroundTest, ForcedAnswersAreReportedWithTheirOwnLogprobs) {
  Start();
  const Submitted request = Submit(Forced(Tokens(5, 10), {7, 3, 99}));
  const Finished finished = request.record->Wait();
  EXPECT_EQ(finished.status, absl::OkStatus());
  EXPECT_EQ(finished.reason, FinishReason::kLength);
  EXPECT_EQ(finished.usage, (Usage{.prompt_tokens = 5, .generated_tokens = 3}));
  EXPECT_THAT(request.record->events(),
              ElementsAre("progress 5/5", "token 7", "token 3", "token 99"));
  const std::vector<RecordedItem> items = ItemsOf(request.id);
  ASSERT_EQ(items.size(), 3u);
  EXPECT_FALSE(items[0].sample);
  EXPECT_THAT(items[0].targets,
              ElementsAre(kNoTarget, kNoTarget, kNoTarget, kNoTarget, 7));
  EXPECT_THAT(items[1].tokens, ElementsAre(7));
  EXPECT_THAT(items[1].targets, ElementsAre(3));
}

TEST_F(BackgroundTest, ForcedAnswersAreAsLongAsTheySay) {
  Start();
  EngineRequest request = Forced({1}, {2, 3});
  std::get<GenerateRequest>(request.work).max_new_tokens = 3;
  EXPECT_EQ(Refusal(std::move(request)),
            absl::InvalidArgumentError(
                "forced has 2 tokens; it must have max_new_tokens, which is 3"));
  EXPECT_EQ(Refusal(Forced({1}, {100})),
            absl::InvalidArgumentError("forced[0] is 100; it must be in [0, 100)"));
}

TEST_F(BackgroundTest, WaitsWhileOthersHaveWork) {
  Start(&observer_);
  const auto requests = SubmitBehind(InBackground(Generate(Tokens(40, 0), 2)),
                                     {Generate(Tokens(3, 50), 3)});
  EXPECT_EQ(requests[0].record->Wait().status, absl::OkStatus());
  EXPECT_THAT(StepTexts(), ElementsAre("1:0+16", "2:0+3s", "2:3+1s", "2:4+1s", "1:16+16",
                                       "1:32+8s", "1:40+1s"));
}

TEST_F(BackgroundTest, IsInNoNumberOfTheOthers) {
  Start(&observer_);
  model_.Block();
  const Submitted background = Submit(InBackground(Generate(Tokens(40, 0), 2)));
  model_.WaitUntilBlocked();
  const EngineStats stats = engine_->stats();
  EXPECT_EQ(stats.running, 0);
  EXPECT_EQ(stats.waiting, 0);
  EXPECT_EQ(stats.waiting_tokens, 0);
  EXPECT_EQ(stats.tenants, 0);
  EXPECT_EQ(stats.free_blocks, stats.num_blocks);
  EXPECT_EQ(stats.prefill_backlog, absl::ZeroDuration());
  model_.Release();
  background.record->Wait();
  ExpectAllBlocksBack();
  EXPECT_EQ(engine_->stats().prompt_tokens, 0);
  EXPECT_EQ(engine_->stats().generated_tokens, 0);
  for (const auto& step : observer_.steps()) EXPECT_TRUE(step.report.background);
  ASSERT_EQ(observer_.ends().size(), 1u);
  EXPECT_TRUE(observer_.ends()[0].report.background);
  EXPECT_THAT(observer_.states(), IsEmpty());
}

TEST_F(BackgroundTest, GivesItsBlocksToWhoNeedsThem) {
  options_.kv.num_blocks = 12;
  Start(&observer_);
  // 8 of 12 blocks; the other one needs 6.
  const auto requests = SubmitBehind(InBackground(Generate(Tokens(30, 0), 2)),
                                     {Generate(Tokens(20, 50), 2)});
  EXPECT_EQ(requests[1].record->Wait().status, absl::OkStatus());
  EXPECT_EQ(requests[0].record->Wait().status.code(), absl::StatusCode::kAborted);
  EXPECT_THAT(observer_.preempted(), IsEmpty());
  EXPECT_THAT(StepTexts(), ElementsAre("1:0+16", "2:0+16", "2:16+4s", "2:20+1s"));
  ExpectAllBlocksBack();
}

TEST_F(BackgroundTest, KeepsItsBlocksWhileThereAreOthers) {
  options_.kv.num_blocks = 16;
  Start(&observer_);
  const auto requests = SubmitBehind(InBackground(Generate(Tokens(30, 0), 2)),
                                     {Generate(Tokens(20, 50), 2)});
  EXPECT_EQ(requests[0].record->Wait().status, absl::OkStatus());
}

TEST_F(BackgroundTest, ThereIsOneAtATime) {
  Start();
  model_.Block();
  const Submitted first = Submit(InBackground(Generate({1, 2}, 1)));
  model_.WaitUntilBlocked();
  const absl::Status refused = Refusal(InBackground(Generate({1, 2}, 1)));
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  model_.Release();
  first.record->Wait();
  engine_->Drain(absl::InfiniteFuture());
}

TEST_F(BackgroundTest, NeitherFindsNorLeavesCachedPages) {
  options_.prefix_caching = PrefixCaching::kShared;
  Start();
  const std::vector<TokenId> text = Tokens(12, 0);
  Run(InBackground(Generate(text, 1)));
  EXPECT_EQ(Run(Generate(text, 1)).usage.cached_tokens, 0);
  EXPECT_EQ(Run(Generate(text, 1)).usage.cached_tokens, 11);
  EXPECT_EQ(Run(InBackground(Generate(text, 1))).usage.cached_tokens, 0);
}

TEST_F(BackgroundTest, EndsWhenTheEngineDrains) {
  Start();
  std::thread releases;
  model_.Block();
  const Submitted background = Submit(InBackground(Generate(Tokens(40, 0), 50)));
  model_.WaitUntilBlocked();
  releases = ReleaseWhenDraining();
  engine_->Drain(absl::InfiniteFuture());
  releases.join();
  EXPECT_EQ(background.record->Wait().status.code(), absl::StatusCode::kCancelled);
}

TEST_F(BackgroundTest, CanBeCancelled) {
  Start();
  model_.Block();
  const Submitted background = Submit(InBackground(Generate(Tokens(40, 0), 50)));
  model_.WaitUntilBlocked();
  engine_->Cancel(background.id);
  model_.Release();
  EXPECT_EQ(background.record->Wait().status.code(), absl::StatusCode::kCancelled);
  ExpectAllBlocksBack();
}

// ------------------------------------------------------------------------- device time

TEST_F(BackgroundTest, DeviceTimeIsTheStepsIfNobodySharesThem) {
  Start();
  const Finished finished = Run(Generate(Tokens(40, 0), 3));
  EXPECT_TRUE(finished.device.alone);
  EXPECT_EQ(finished.device.prefill, absl::Seconds(3));
  EXPECT_EQ(finished.device.decode, absl::Seconds(2));
  EXPECT_EQ(finished.device.dense_total(), absl::Seconds(5));
}

TEST_F(BackgroundTest, DeviceTimeIsTheRequestsPartOfSharedSteps) {
  Start(&observer_);
  const auto requests =
      SubmitTogether({Generate(Tokens(4, 0), 3), Generate(Tokens(4, 50), 3)});
  for (const Submitted& request : requests) {
    const Finished finished = request.record->Wait();
    EXPECT_FALSE(finished.device.alone);
    EXPECT_EQ(finished.device.prefill, absl::Milliseconds(500));
    EXPECT_EQ(finished.device.decode, absl::Seconds(1));
  }
  engine_->Drain(absl::InfiniteFuture());
  // And all parts are the whole.
  absl::Duration steps, parts;
  for (const auto& step : observer_.steps()) {
    steps += step.report.elapsed;
    for (int mode = 0; mode < kAttentionModes; ++mode) {
      parts += step.report.prefill_time[mode] + step.report.decode_time[mode];
    }
  }
  EXPECT_EQ(steps, absl::Seconds(4));
  EXPECT_EQ(parts, steps);
}

TEST_F(BackgroundTest, DeviceTimeCountsFromWhereItIsMeasured) {
  Start();
  // Rows [0, 16), [16, 32), [32, 40): half of the second, all of the third.
  const Finished finished = Run(InBackground(Generate(Tokens(40, 0), 1), 24));
  EXPECT_EQ(finished.device.prefill, absl::Milliseconds(1500));
  EXPECT_EQ(finished.device.skipped, absl::Milliseconds(1500));
}

}  // namespace
}  // namespace quire

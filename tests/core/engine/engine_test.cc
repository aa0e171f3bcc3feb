#include "core/engine/engine.h"

#include <atomic>
#include <string>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/core/engine/engine_fixture.h"

namespace quire {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

class EngineTest : public EngineFixture {};

BlockId B(int32_t id) { return BlockId{id}; }

TEST_F(EngineTest, GeneratesAndReportsExactly) {
  Start();
  const Submitted request = Submit(Generate({10, 11, 12, 13, 14, 15}, 3));
  const Finished finished = request.record->Wait();
  EXPECT_EQ(finished.status, absl::OkStatus());
  EXPECT_EQ(finished.reason, FinishReason::kLength);
  EXPECT_EQ(finished.usage, (Usage{.prompt_tokens = 6, .generated_tokens = 3}));
  EXPECT_EQ(finished.timings.queue, absl::ZeroDuration());
  EXPECT_EQ(finished.timings.prefill, absl::Seconds(2));
  EXPECT_EQ(finished.timings.decode, absl::Seconds(2));
  EXPECT_THAT(request.record->events(), ElementsAre("progress 4/6", "progress 6/6",
                                                    "token 16", "token 17", "token 18"));
}

TEST_F(EngineTest, GivesTheRunnerWhatTheSequencePlansAndItsBlocks) {
  Start();
  const Submitted request = Submit(Generate({10, 11, 12, 13, 14, 15}, 4));
  request.record->Wait();
  const std::vector<RecordedStep> steps = model_.steps();
  ASSERT_EQ(steps.size(), 5u);
  for (const RecordedStep& step : steps) {
    ASSERT_EQ(step.items.size(), 1u);
    EXPECT_EQ(step.items[0].id, request.id);
    EXPECT_THAT(step.released, IsEmpty());
    EXPECT_THAT(step.copies, IsEmpty());
  }
  // Room for the prompt and one token more from the first step on; more as it is needed.
  EXPECT_THAT(steps[0].items[0].blocks, ElementsAre(B(0), B(1)));
  EXPECT_THAT(steps[3].items[0].blocks, ElementsAre(B(0), B(1)));
  EXPECT_THAT(steps[4].items[0].blocks, ElementsAre(B(0), B(1), B(2)));
  EXPECT_THAT(steps[1].items[0].tokens, ElementsAre(14, 15));
  EXPECT_TRUE(steps[1].items[0].sample);
  EXPECT_THAT(steps[4].items[0].tokens, ElementsAre(18));
  EXPECT_EQ(steps[4].items[0].begin, 8);
  EXPECT_THAT(steps[4].items[0].history, ElementsAre(16, 17, 18));
  EXPECT_EQ(steps[4].items[0].sample_step, 3);
}

TEST_F(EngineTest, ScoresInChunks) {
  Start();
  const Submitted request =
      Submit({.work = ScoreRequest{.tokens = {20, 21, 22, 23, 24, 25, 26}, .first = 2}});
  const Finished finished = request.record->Wait();
  EXPECT_EQ(finished.status, absl::OkStatus());
  EXPECT_EQ(finished.reason, FinishReason::kScored);
  EXPECT_EQ(finished.usage, (Usage{.prompt_tokens = 6}));
  EXPECT_EQ(finished.timings.prefill, absl::Seconds(2));
  EXPECT_EQ(finished.timings.decode, absl::ZeroDuration());
  EXPECT_THAT(request.record->events(), ElementsAre("progress 4/6", "scores 22 23 24",
                                                    "progress 6/6", "scores 25 26"));
}

TEST_F(EngineTest, FirstComeFirstServedOneAtATime) {
  Start();
  model_.Block();
  const Submitted first = Submit(Generate({1}, 2));
  model_.WaitUntilBlocked();
  const Submitted second = Submit(Generate({2, 3}, 1));
  const Submitted third = Submit({.work = ScoreRequest{.tokens = {5, 6}}});
  EngineStats stats = engine_->stats();
  EXPECT_EQ(stats.running, 1);
  EXPECT_EQ(stats.waiting, 2);
  EXPECT_EQ(stats.waiting_tokens, 3);
  EXPECT_EQ(stats.free_blocks, 15);
  EXPECT_EQ(stats.num_blocks, 16);
  clock_.Advance(absl::Milliseconds(250));
  model_.Release();
  EXPECT_EQ(third.record->Wait().timings.queue, absl::Milliseconds(3250));
  EXPECT_EQ(second.record->Wait().timings.queue, absl::Milliseconds(2250));
  std::vector<RequestId> order;
  for (const RecordedStep& step : model_.steps()) order.push_back(step.items[0].id);
  EXPECT_THAT(order, ElementsAre(first.id, first.id, second.id, third.id));
  stats = engine_->stats();
  EXPECT_EQ(stats.running, 0);
  EXPECT_EQ(stats.waiting, 0);
  EXPECT_EQ(stats.waiting_tokens, 0);
  EXPECT_EQ(stats.free_blocks, 16);
}

TEST_F(EngineTest, TellsTheRunnerWhoWasFinishedOnce) {
  Start();
  const Submitted first = Submit(Generate({1}, 1));
  first.record->Wait();
  const Submitted second = Submit(Generate({1}, 2));
  second.record->Wait();
  const std::vector<RecordedStep> steps = model_.steps();
  ASSERT_EQ(steps.size(), 3u);
  EXPECT_THAT(steps[0].released, IsEmpty());
  EXPECT_THAT(steps[1].released, ElementsAre(first.id));
  EXPECT_THAT(steps[2].released, IsEmpty());
}

TEST_F(EngineTest, TellsAgainAfterAFailedStep) {
  model_.FailStep(1, absl::ResourceExhaustedError("device memory"));
  Start();
  const Submitted first = Submit(Generate({1}, 1));
  first.record->Wait();
  const Submitted second = Submit(Generate({1}, 1));
  second.record->Wait();
  Submit(Generate({1}, 1)).record->Wait();
  EXPECT_THAT(model_.steps()[2].released, ElementsAre(first.id, second.id));
}

TEST_F(EngineTest, CancelTakesEffectBeforeTheNextStep) {
  Start();
  model_.Block();
  const Submitted request = Submit(Generate(std::vector<TokenId>(12, 7), 4));
  model_.WaitUntilBlocked();
  engine_->Cancel(request.id);
  engine_->Cancel(request.id);
  engine_->Cancel(RequestId{999});
  model_.Release();
  const Finished finished = request.record->Wait();
  EXPECT_EQ(finished.status, absl::CancelledError("the request was cancelled"));
  EXPECT_EQ(finished.usage, (Usage{.prompt_tokens = 4}));
  EXPECT_EQ(finished.timings.prefill, absl::Seconds(1));
  EXPECT_EQ(finished.timings.decode, absl::ZeroDuration());
  EXPECT_EQ(model_.num_steps(), 1);
  EXPECT_EQ(engine_->stats().free_blocks, 16);
}

TEST_F(EngineTest, CancelledWhileWaitingDoesNotWaitForItsTurn) {
  Start();
  model_.Block();
  const Submitted running = Submit(Generate({1}, 50));
  model_.WaitUntilBlocked();
  const Submitted waiting = Submit(Generate({2}, 1));
  engine_->Cancel(waiting.id);
  // The second step already begins after the sink was told.
  model_.set_on_step([&](const StepInput&) {
    clock_.Advance(absl::Seconds(1));
    if (model_.num_steps() == 2) waiting.record->Wait();
  });
  model_.Release();
  const Finished finished = waiting.record->Wait();
  EXPECT_EQ(finished.status, absl::CancelledError("the request was cancelled"));
  EXPECT_EQ(finished.usage, Usage{});
  EXPECT_EQ(finished.timings.queue, absl::Seconds(1));
  EXPECT_EQ(finished.timings.prefill, absl::ZeroDuration());
  EXPECT_EQ(running.record->Wait().reason, FinishReason::kLength);
}

TEST_F(EngineTest, DeadlineDuringPrefillAndDecode) {
  Start();
  EngineRequest request = Generate(std::vector<TokenId>(12, 7), 9);
  request.deadline = clock_.Now() + absl::Seconds(2);
  Finished finished = Submit(request).record->Wait();
  EXPECT_EQ(finished.status, absl::DeadlineExceededError("the deadline passed after 2s"));
  EXPECT_EQ(finished.usage, (Usage{.prompt_tokens = 8}));
  request.deadline = clock_.Now() + absl::Milliseconds(4500);
  finished = Submit(request).record->Wait();
  EXPECT_EQ(finished.status,
            absl::DeadlineExceededError("the deadline passed after 4.5s"));
  EXPECT_EQ(finished.usage, (Usage{.prompt_tokens = 12, .generated_tokens = 3}));
  EXPECT_EQ(finished.timings.prefill, absl::Seconds(3));
  EXPECT_EQ(finished.timings.decode, absl::Seconds(2));
  EXPECT_EQ(engine_->stats().free_blocks, 16);
}

TEST_F(EngineTest, DeadlineWhileWaitingIsNoticedBehindARunningRequest) {
  Start();
  model_.Block();
  const Submitted running = Submit(Generate({1}, 50));
  model_.WaitUntilBlocked();
  EngineRequest late = Generate({2}, 1);
  late.deadline = clock_.Now() + absl::Seconds(3);
  const Submitted waiting = Submit(late);
  model_.Release();
  const Finished finished = waiting.record->Wait();
  EXPECT_EQ(finished.status,
            absl::DeadlineExceededError(
                "the deadline passed after 3s, while the request was waiting"));
  EXPECT_EQ(finished.usage, Usage{});
  EXPECT_EQ(finished.timings.queue, absl::Seconds(3));
  EXPECT_EQ(running.record->Wait().usage.generated_tokens, 50);
}

TEST_F(EngineTest, RunnerErrorFailsThatRequestOnly) {
  model_.FailStep(1, absl::InternalError("cable"));
  Start();
  const Submitted first = Submit(Generate({1, 2, 3, 4, 5}, 2));
  const Submitted second = Submit(Generate({1}, 2));
  const Finished finished = first.record->Wait();
  EXPECT_EQ(finished.status, absl::InternalError("cable"));
  EXPECT_EQ(finished.usage, (Usage{.prompt_tokens = 4}));
  EXPECT_EQ(second.record->Wait().status, absl::OkStatus());
  EXPECT_EQ(engine_->stats().free_blocks, 16);
}

TEST_F(EngineTest, RunnerExceptionIsInternalAndTheEngineGoesOn) {
  model_.ThrowAtStep(0, "bad kernel");
  Start();
  EXPECT_EQ(Submit(Generate({1}, 2)).record->Wait().status,
            absl::InternalError("the model runner threw: bad kernel"));
  EXPECT_EQ(Submit(Generate({1}, 2)).record->Wait().status, absl::OkStatus());
}

TEST_F(EngineTest, ResultsOfOtherItemsAreInternal) {
  class WrongRunner final : public ModelRunner {
   public:
    absl::StatusOr<std::vector<StepResult>> Step(const StepInput& input) override {
      if (++steps_ == 1) return std::vector<StepResult>{};
      if (steps_ == 2) return std::vector<StepResult>{{.id = RequestId{77}}};
      return std::vector<StepResult>{{.id = input.items[0].id}};
    }
    int steps_ = 0;
  };
  engine_ =
      Engine::Start(options_, std::make_unique<WrongRunner>(), nullptr, clock_).value();
  const auto status = [&] { return Submit(Generate({1}, 1)).record->Wait().status; };
  EXPECT_EQ(status(),
            absl::InternalError("the model runner's results are of other items"));
  EXPECT_EQ(status(),
            absl::InternalError("the model runner's results are of other items"));
  EXPECT_EQ(status(), absl::InternalError("the model runner sampled no token"));
}

// What libraries prepare they may prepare for one thread.
TEST_F(EngineTest, TheRunnerPreparesOnTheThreadThatSteps) {
  struct Calls {
    std::vector<std::thread::id> prepared, stepped;
  };
  class PreparedRunner final : public ModelRunner {
   public:
    explicit PreparedRunner(Calls& calls) : calls_(calls) {}
    void Prepare() override {
      EXPECT_TRUE(calls_.stepped.empty());
      calls_.prepared.push_back(std::this_thread::get_id());
    }
    absl::StatusOr<std::vector<StepResult>> Step(const StepInput& input) override {
      calls_.stepped.push_back(std::this_thread::get_id());
      return std::vector<StepResult>{
          {.id = input.items[0].id, .sampled = TokenScore{.token = 1}}};
    }

   private:
    Calls& calls_;
  };
  Calls calls;
  engine_ =
      Engine::Start(options_, std::make_unique<PreparedRunner>(calls), nullptr, clock_)
          .value();
  EXPECT_EQ(Submit(Generate({1}, 3)).record->Wait().status, absl::OkStatus());
  engine_.reset();
  EXPECT_EQ(calls.stepped.size(), 3u);
  ASSERT_EQ(calls.prepared.size(), 1u);
  EXPECT_EQ(calls.prepared[0], calls.stepped[0]);
}

TEST_F(EngineTest, ObserverSeesEveryStep) {
  class Observer final : public EngineObserver {
   public:
    void OnStep(const StepReport& step) override {
      const auto kAuto = static_cast<size_t>(AttentionMode::kAuto);
      steps.push_back(absl::StrCat(
          absl::FormatDuration(step.elapsed), " ", step.sequences, " ",
          step.prompt_tokens, " ", step.generated_tokens, " ",
          step.prefill[kAuto].work.columns, " ", step.decode[kAuto].work.columns));
      for (const absl::Duration gap : step.inter_token) {
        steps.push_back(absl::StrCat("gap ", absl::FormatDuration(gap)));
      }
    }
    void OnFinished(const FinishReport& finished) override {
      steps.push_back(absl::StrCat("finished ", finished.attention.prefill.work.columns,
                                   " ", finished.attention.decode.work.columns, " ",
                                   finished.wasted_tokens));
    }
    std::vector<std::string> steps;
  };
  Observer observer;
  Start(&observer);
  EngineRequest request = Generate({1, 2, 3, 4, 5}, 9);
  std::get<GenerateRequest>(request.work).stop_tokens = {7};
  EXPECT_EQ(Submit(request).record->Wait().reason, FinishReason::kStopToken);
  engine_.reset();
  EXPECT_THAT(observer.steps, ElementsAre("1s 1 4 0 10 0", "1s 1 1 1 5 0", "1s 1 0 0 0 6",
                                          "finished 15 6 0"));
}

TEST_F(EngineTest, WaitingRoomIsBounded) {
  options_.max_waiting = 2;
  Start();
  model_.Block();
  const Submitted running = Submit(Generate({1}, 1));
  model_.WaitUntilBlocked();
  Submit(Generate({1}, 1));
  const Submitted last = Submit(Generate({1}, 1));
  const absl::Status refused = Refusal(Generate({1}, 1));
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(refused.message(),
            "max_running is 1 and max_waiting is 2; as many requests (3) are in work or "
            "wait");
  EXPECT_EQ(RefusalOf(refused), Refusal::kWaitingRoomFull);
  model_.Release();
  EXPECT_EQ(last.record->Wait().status, absl::OkStatus());
  EXPECT_EQ(Submit(Generate({1}, 1)).record->Wait().status, absl::OkStatus());
}

TEST_F(EngineTest, IdleEngineTakesARequestEvenWithoutAWaitingRoom) {
  options_.max_waiting = 0;
  Start();
  for (int i = 0; i < 50; ++i) {
    EXPECT_EQ(Submit(Generate({1}, 1)).record->Wait().status, absl::OkStatus());
  }
}

TEST_F(EngineTest, DrainRefusesNewAndFinishesAccepted) {
  Start();
  model_.Block();
  const Submitted first = Submit(Generate({1}, 3));
  model_.WaitUntilBlocked();
  const Submitted second = Submit(Generate({1}, 3));
  model_.set_on_step([this](const StepInput&) {
    EXPECT_EQ(Refusal(Generate({1}, 1)),
              absl::UnavailableError("the engine is draining"));
  });
  std::thread releaser = ReleaseWhenDraining();
  engine_->Drain(absl::InfiniteFuture());
  EXPECT_TRUE(first.record->finished());
  EXPECT_TRUE(second.record->finished());
  EXPECT_EQ(second.record->Wait().status, absl::OkStatus());
  engine_->Drain(absl::InfiniteFuture());
  releaser.join();
}

TEST_F(EngineTest, DrainCancelsTheRestWhenItsTimeIsUp) {
  Start();
  model_.Block();
  const Submitted running = Submit(Generate({1}, 50));
  model_.WaitUntilBlocked();
  const Submitted waiting = Submit(Generate({1}, 1));
  std::thread releaser = ReleaseWhenDraining();
  engine_->Drain(clock_.Now() + absl::Seconds(10));
  EXPECT_EQ(running.record->Wait().status,
            absl::CancelledError("the engine was draining and its time was up"));
  EXPECT_EQ(running.record->Wait().usage.generated_tokens, 10);
  EXPECT_EQ(waiting.record->Wait().status.code(), absl::StatusCode::kCancelled);
  EXPECT_TRUE(waiting.record->sink_destroyed());
  releaser.join();
}

TEST_F(EngineTest, DestructorCancelsEverything) {
  std::atomic<bool> destroying{false};
  SlowDownUntil(destroying);
  Start();
  const Submitted running = Submit(Generate({1}, 60));
  const Submitted waiting = Submit(Generate({1}, 1));
  destroying = true;
  engine_.reset();
  EXPECT_EQ(running.record->Wait().status, absl::CancelledError("the engine stops"));
  EXPECT_EQ(waiting.record->Wait().status, absl::CancelledError("the engine stops"));
  EXPECT_TRUE(running.record->sink_destroyed());
  EXPECT_TRUE(waiting.record->sink_destroyed());
}

TEST_F(EngineTest, RequestsThatShareTheCacheInTurnSeeTheirOwnTokens) {
  Start();
  for (TokenId first = 0; first < 20; ++first) {
    const Submitted request = Submit(Generate(std::vector<TokenId>(9, first), 1));
    ASSERT_EQ(request.record->Wait().status, absl::OkStatus());
    EXPECT_EQ(request.record->events().back(), absl::StrCat("token ", first + 1));
  }
}

}  // namespace
}  // namespace quire

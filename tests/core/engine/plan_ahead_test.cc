#include <functional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/core/engine/batching_fixture.h"

// On a runner whose device computes by itself: the next step is planned meanwhile.
namespace quire {
namespace {

using ::testing::ElementsAre;

class PlanAheadTest : public BatchingFixture {
 protected:
  PlanAheadTest() {
    model_.set_next(NextOfAll);
    model_.set_on_step(nullptr);
    WhileItWaits([](const StepInput&) {});
  }

  // While the device computes a step; it takes a second.
  void WhileItWaits(std::function<void(const StepInput&)> act) {
    model_.LaunchSteps([this, act = std::move(act)](const StepInput& input) {
      clock_.Advance(absl::Seconds(1));
      act(input);
    });
  }
  void WaitForAll(const std::vector<Submitted>& requests) {
    for (const Submitted& request : requests) request.record->Wait();
    engine_->Drain(absl::InfiniteFuture());
  }
  // Events that came, of at least `wanted` if they come in time.
  static size_t AwaitEvents(const SinkRecord& record, size_t wanted) {
    for (int i = 0; i < 5000 && record.events().size() < wanted; ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return record.events().size();
  }
  // Request 2, behind another that has to be over first; `record` is set before it
  // begins.
  void AnswerBehindAnother(int tokens, std::shared_ptr<SinkRecord>& record) {
    Start();
    model_.Block();
    Submit(Generate({99}, 1));
    model_.WaitUntilBlocked();
    record = Submit(Generate({1}, tokens)).record;
    model_.Release();
    record->Wait();
  }
  int64_t PlansAhead() const { return engine_->stats().plans_ahead; }
  static bool Has(const StepInput& input, uint64_t id) {
    return std::any_of(input.items.begin(), input.items.end(),
                       [&](const StepItem& item) { return item.id == RequestId{id}; });
  }

  RecordingObserver observer_;
};

TEST_F(PlanAheadTest, StepsOfNewTokensAreAllPlannedAhead) {
  Start(&observer_);
  WaitForAll(SubmitTogether({Generate({1}, 9), Generate({2, 3}, 9), Generate({4}, 9)}));
  EXPECT_EQ(engine_->stats().steps, 1 + 9);
  EXPECT_EQ(PlansAhead(), 8);  // all but the first request's and the first of these
  ExpectAllBlocksBack();
}

TEST_F(PlanAheadTest, SoAreAPromptsChunksWhileOthersDecode) {
  Start(&observer_);
  WaitForAll(SubmitTogether({Generate({1}, 5), Generate(Tokens(40, 20), 2)}));
  EXPECT_THAT(StepTexts(), ElementsAre("1:0+1s", "2:0+1s 3:0+15", "2:1+1s 3:15+15",
                                       "2:2+1s 3:30+10s", "2:3+1s 3:40+1s", "2:4+1s"));
  // The last step follows an end.
  EXPECT_EQ(PlansAhead(), 3);
}

TEST_F(PlanAheadTest, SoAreThoseThatOnlyScore) {
  Start(&observer_);
  WaitForAll(SubmitTogether({Score(Tokens(40, 0))}));
  EXPECT_EQ(engine_->stats().steps, 1 + 3);
  EXPECT_EQ(PlansAhead(), 2);
}

TEST_F(PlanAheadTest, AForcedAnswerIsForeseenLikeAChosenOne) {
  Start();
  EngineRequest request = Generate({1}, 4);
  std::get<GenerateRequest>(request.work).forced = {5, 6, 7, 8};
  WaitForAll(SubmitTogether({std::move(request)}));
  EXPECT_EQ(PlansAhead(), 3);
}

TEST_F(PlanAheadTest, ARunnerThatComputesItselfIsPlannedForBetweenSteps) {
  FakeModel model(100, 4);
  auto engine = Engine::Start(options_, model.MakeRunner(), nullptr, clock_).value();
  auto record = std::make_shared<SinkRecord>();
  ASSERT_TRUE(
      engine->Submit(Generate({1}, 9), std::make_unique<RecordingSink>(record)).ok());
  record->Wait();
  EXPECT_EQ(engine->stats().plans_ahead, 0);
}

// What nobody foresaw: the step after it is planned from what is.

TEST_F(PlanAheadTest, NotAfterAStopToken) {
  Start();
  const std::vector<TokenId> answer = AnswerOfAll({1}, 8);
  EngineRequest stops = Generate({1}, 8);
  std::get<GenerateRequest>(stops.work).stop_tokens = {answer[3]};
  const auto requests = SubmitTogether({std::move(stops), Generate({2}, 7)});
  WaitForAll(requests);
  EXPECT_EQ(ReportedTokens(*requests[0].record),
            std::vector<TokenId>(answer.begin(), answer.begin() + 3));
  EXPECT_EQ(engine_->stats().steps, 1 + 7);
  EXPECT_EQ(PlansAhead(), 6 - 1);
}

TEST_F(PlanAheadTest, NotWhenARequestComes) {
  Submitted late;
  WhileItWaits([&](const StepInput& input) {
    if (input.items[0].begin == 3) late = Submit(Generate({7}, 2));
  });
  Start();
  WaitForAll(SubmitTogether({Generate({1}, 9)}));
  EXPECT_EQ(ReportedTokens(*late.record), AnswerOfAll({7}, 2));
  EXPECT_THAT(StepTexts(), ElementsAre("1:0+1s", "2:0+1s", "2:1+1s", "2:2+1s", "2:3+1s",
                                       "2:4+1s 3:0+1s", "2:5+1s 3:1+1s", "2:6+1s",
                                       "2:7+1s", "2:8+1s"));
  // Of the eight that follow a step with this request, not those after a coming and an
  // end.
  EXPECT_EQ(PlansAhead(), 8 - 2);
}

TEST_F(PlanAheadTest, NotWhenOneIsCancelled) {
  WhileItWaits([&](const StepInput& input) {
    if (input.items[0].begin == 3) engine_->Cancel(RequestId{3});
  });
  Start();
  const auto requests = SubmitTogether({Generate({1}, 9), Generate({2}, 9)});
  WaitForAll(requests);
  EXPECT_EQ(requests[1].record->Wait().status.code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(ReportedTokens(*requests[0].record), AnswerOfAll({1}, 9));
  EXPECT_EQ(PlansAhead(), 8 - 1);
}

TEST_F(PlanAheadTest, NotWhenOneIsLate) {
  Start();
  EngineRequest late = Generate({2}, 9);
  late.deadline = clock_.Now() + absl::Seconds(4);
  const auto requests = SubmitTogether({Generate({1}, 9), std::move(late)});
  WaitForAll(requests);
  EXPECT_EQ(requests[1].record->Wait().status.code(),
            absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(ReportedTokens(*requests[1].record), AnswerOfAll({2}, 3));
  EXPECT_EQ(PlansAhead(), 8 - 1);
}

TEST_F(PlanAheadTest, NotAfterAnItemThatFailed) {
  model_.set_fail_item([](const StepItem& item) {
    return item.id == RequestId{3} && item.begin == 3 ? absl::InternalError("bits")
                                                      : absl::OkStatus();
  });
  Start();
  WaitForAll(SubmitTogether({Generate({1}, 9), Generate({2}, 9)}));
  EXPECT_EQ(PlansAhead(), 8 - 1);
}

// Nothing was launched: nothing was planned. Then each is tried alone, as ever; none of
// these knows what the others will come to, but the last.
TEST_F(PlanAheadTest, NotAfterAStepThatCouldNotBeLaunched) {
  bool failed = false;
  model_.set_fail_step([&](const StepInput& input) {
    if (failed || input.items[0].begin != 3) return absl::OkStatus();
    failed = true;
    return absl::ResourceExhaustedError("device memory");
  });
  Start(&observer_);
  const auto requests =
      SubmitTogether({Generate({1}, 9), Generate({2}, 9), Generate({3}, 9)});
  WaitForAll(requests);
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(ReportedTokens(*requests[i].record), AnswerOfAll({i + 1}, 9));
  }
  EXPECT_EQ(engine_->stats().steps, 1 + 3 + 3 + 5);
  EXPECT_EQ(PlansAhead(), 3 + 5);
}

TEST_F(PlanAheadTest, NotAfterAStepThatFailedOnTheDevice) {
  bool failed = false;
  WhileItWaits([&](const StepInput& input) {
    if (failed || input.items[0].begin != 3) return;
    failed = true;
    throw std::runtime_error("bad kernel");
  });
  Start();
  const auto requests = SubmitTogether({Generate({1}, 9), Generate({2}, 9)});
  WaitForAll(requests);
  EXPECT_EQ(ReportedTokens(*requests[0].record), AnswerOfAll({1}, 9));
  EXPECT_EQ(ReportedTokens(*requests[1].record), AnswerOfAll({2}, 9));
  EXPECT_EQ(PlansAhead(), 3 + 5);
}

// One gives way when blocks run out: the plan that says so may have been foreseen, the
// one after it, for which what the cache has is looked up, is not.
TEST_F(PlanAheadTest, APreemptionCanBeForeseenWhatFollowsCannot) {
  options_.kv.num_blocks = 12;
  options_.max_running = 2;
  Start(&observer_);
  const auto requests = SubmitTogether({Generate({1, 1}, 30), Generate({2, 2}, 30)});
  WaitForAll(requests);
  EXPECT_EQ(ReportedTokens(*requests[0].record), AnswerOfAll({1, 1}, 30));
  EXPECT_EQ(ReportedTokens(*requests[1].record), AnswerOfAll({2, 2}, 30));
  ASSERT_EQ(observer_.preempted().size(), 1u);
  const int64_t followed = 1 + 1 + 1 + 1;  // a start, the wait, an end, another start
  EXPECT_GT(PlansAhead(), 20);
  EXPECT_LE(PlansAhead(), engine_->stats().steps - followed);
  ExpectAllBlocksBack();
}

TEST_F(PlanAheadTest, ABackgroundRequestIsPlannedBetweenSteps) {
  Start();
  EngineRequest background = Generate(Tokens(40, 0), 4);
  background.background = Background{};
  EXPECT_EQ(Run(std::move(background)).status, absl::OkStatus());
  EXPECT_EQ(PlansAhead(), 0);
  EXPECT_EQ(Run(Generate({1}, 4)).status, absl::OkStatus());
  EXPECT_EQ(PlansAhead(), 3);
}

TEST_F(PlanAheadTest, ALostDeviceEndsEverythingAsEver) {
  WhileItWaits([&](const StepInput&) {
    if (model_.num_steps() == 5) engine_->Cancel(RequestId{1});  // unknown: over
  });
  model_.FailStep(5, absl::DataLossError("gone"));
  Start();
  const auto requests = SubmitTogether({Generate({1}, 9), Generate({2}, 9)});
  WaitForAll(requests);
  for (const Submitted& request : requests) {
    EXPECT_EQ(request.record->Wait().status, absl::DataLossError("gone"));
    EXPECT_EQ(ReportedTokens(*request.record).size(), 4u);
  }
}

// ------------------------------------------------------------- what is told, and when

TEST_F(PlanAheadTest, TokensAreHandedOutWhenTheNextStepWasLaunched) {
  std::shared_ptr<SinkRecord> record;
  std::vector<size_t> before_launch, while_computed;
  model_.set_on_step([&](const StepInput& input) {
    if (Has(input, 2)) before_launch.push_back(record->events().size());
  });
  WhileItWaits([&](const StepInput& input) {
    if (!Has(input, 2)) return;
    // The tokens of all steps before this one, and its prompt's progress.
    const size_t wanted = before_launch.size() == 1 ? 0 : before_launch.size();
    while_computed.push_back(AwaitEvents(*record, wanted));
  });
  AnswerBehindAnother(4, record);
  EXPECT_THAT(before_launch, ElementsAre(0, 0, 2, 3));
  EXPECT_THAT(while_computed, ElementsAre(0, 2, 3, 4));
  EXPECT_EQ(ReportedTokens(*record), AnswerOfAll({1}, 4));
}

// A launch may take as long as the step does, and prompts' may: nobody waits for those.
TEST_F(PlanAheadTest, TokensAreNotKeptBackForALaunchThatTakesLong) {
  std::shared_ptr<SinkRecord> record;
  std::vector<size_t> before_launch;
  model_.set_on_step([&](const StepInput& input) {
    clock_.Advance(absl::Milliseconds(1));
    if (!Has(input, 2)) return;
    const size_t wanted = before_launch.empty() ? 0 : before_launch.size() + 1;
    before_launch.push_back(AwaitEvents(*record, wanted));
  });
  AnswerBehindAnother(4, record);
  EXPECT_THAT(before_launch, ElementsAre(0, 2, 3, 4));
  EXPECT_EQ(PlansAhead(), 3);
}

TEST_F(PlanAheadTest, TokensAreNotKeptBackForAPrompt) {
  std::shared_ptr<SinkRecord> record;
  bool told = false;
  model_.set_on_step([&](const StepInput& input) {
    if (!Has(input, 2) || !Has(input, 3)) return;
    if (input.items[0].begin != 2) return;
    told = AwaitEvents(*record, 3) == 3;  // progress and two tokens
  });
  WhileItWaits([&](const StepInput& input) {
    if (Has(input, 2) && input.items[0].begin == 1) Submit(Generate(Tokens(20, 0), 1));
  });
  AnswerBehindAnother(5, record);
  engine_->Drain(absl::InfiniteFuture());
  EXPECT_TRUE(told);
}

// Each step's plan is reported once, whether it was launched or not.
TEST_F(PlanAheadTest, EveryPlanIsReported) {
  model_.set_fail_step([&](const StepInput& input) {
    return input.items[0].begin == 3 && input.items.size() > 1
               ? absl::ResourceExhaustedError("device memory")
               : absl::OkStatus();
  });
  Start(&observer_);
  WaitForAll(SubmitTogether({Generate({1}, 6), Generate({2}, 6)}));
  // Without the two that were tried alone.
  EXPECT_EQ(observer_.states().size(), static_cast<size_t>(model_.num_steps()) - 2);
  EXPECT_EQ(engine_->stats().steps, model_.num_steps() - 1);
}

}  // namespace
}  // namespace quire

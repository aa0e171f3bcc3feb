#include <chrono>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/core/engine/batching_fixture.h"

// What goes wrong hits those whom it concerns, and nobody else.
namespace quire {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

class FaultTest : public BatchingFixture {
 protected:
  FaultTest() { model_.set_next(NextOfAll); }

  // Before what the n-th step from the start (0: the first) does.
  void AtStep(int64_t n, std::function<void()> act) {
    model_.set_on_step([this, n, act = std::move(act)](const StepInput&) {
      clock_.Advance(absl::Seconds(1));
      if (model_.num_steps() == n + 1) act();
    });
  }
  static bool Has(const StepInput& input, uint64_t id) {
    return std::any_of(input.items.begin(), input.items.end(),
                       [&](const StepItem& item) { return item.id == RequestId{id}; });
  }
  void ExpectAnswer(const Submitted& request, const std::vector<TokenId>& prompt,
                    int64_t count) {
    EXPECT_EQ(request.record->Wait().status, absl::OkStatus());
    EXPECT_EQ(ReportedTokens(*request.record), AnswerOfAll(prompt, count));
  }
  // An engine that got stuck must not block the test for ever.
  bool FinishesSoon(const Submitted& request) {
    for (int i = 0; i < 5000 && !request.record->finished(); ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return request.record->finished();
  }

  RecordingObserver observer_;
};

TEST_F(FaultTest, AnItemThatFailsFailsAlone) {
  model_.set_fail_item([](const StepItem& item) {
    return item.id == RequestId{3} && item.begin == 3 ? absl::DataLossError("bits")
                                                      : absl::OkStatus();
  });
  Start();
  const auto requests =
      SubmitTogether({Generate({1}, 4), Generate({2}, 6), Generate({3}, 4)});
  ExpectAnswer(requests[0], {1}, 4);
  ExpectAnswer(requests[2], {3}, 4);
  const Finished finished = requests[1].record->Wait();
  EXPECT_EQ(finished.status, absl::DataLossError("bits"));
  EXPECT_EQ(finished.usage, (Usage{.prompt_tokens = 1, .generated_tokens = 3}));
  EXPECT_THAT(StepTexts(),
              ElementsAre("1:0+1s", "2:0+1s 3:0+1s 4:0+1s", "2:1+1s 3:1+1s 4:1+1s",
                          "2:2+1s 3:2+1s 4:2+1s", "2:3+1s 3:3+1s 4:3+1s"));
  ExpectAllBlocksBack();
}

TEST_F(FaultTest, OfAStepThatFailsEachIsTriedAlone) {
  model_.set_fail_step([](const StepInput& input) {
    return Has(input, 3) ? absl::ResourceExhaustedError("device memory")
                         : absl::OkStatus();
  });
  Start(&observer_);
  const auto requests =
      SubmitTogether({Generate({1}, 2), Generate({2}, 2), Generate({3}, 2)});
  ExpectAnswer(requests[0], {1}, 2);
  ExpectAnswer(requests[2], {3}, 2);
  const Finished finished = requests[1].record->Wait();
  EXPECT_EQ(finished.status, absl::ResourceExhaustedError("device memory"));
  EXPECT_EQ(finished.usage, Usage{});
  EXPECT_THAT(StepTexts(), ElementsAre("1:0+1s", "2:0+1s 3:0+1s 4:0+1s", "2:0+1s",
                                       "3:0+1s", "4:0+1s", "2:1+1s 4:1+1s"));
  // Steps that failed are nobody's.
  EXPECT_EQ(observer_.steps().size(), 4u);
  EXPECT_EQ(engine_->stats().steps, 4);
  ExpectAllBlocksBack();
}

TEST_F(FaultTest, WhatOnlyFailsTogetherIsDoneAlone) {
  model_.set_fail_step([](const StepInput& input) {
    return input.items.size() > 1 ? absl::ResourceExhaustedError("device memory")
                                  : absl::OkStatus();
  });
  Start();
  const auto requests = SubmitTogether({Generate(Tokens(20, 0), 5), Generate({2}, 6),
                                        Score(Tokens(30, 3)), Generate({3}, 4)});
  ExpectAnswer(requests[0], Tokens(20, 0), 5);
  ExpectAnswer(requests[1], {2}, 6);
  ExpectAnswer(requests[3], {3}, 4);
  EXPECT_EQ(requests[2].record->Wait().status, absl::OkStatus());
  EXPECT_EQ(ReportedTokens(*requests[2].record), Tokens(29, 4));
  ExpectAllBlocksBack();
}

TEST_F(FaultTest, ALostDeviceFailsEveryRequestAndRefusesNewOnes) {
  model_.set_fail_step([](const StepInput& input) {
    return Has(input, 3) ? absl::DataLossError("the GPU fell off") : absl::OkStatus();
  });
  Start(&observer_);
  const auto requests =
      SubmitTogether({Generate({1}, 9), Generate({2}, 9), Generate({3}, 9)});
  for (const Submitted& request : requests) {
    EXPECT_EQ(request.record->Wait().status, absl::DataLossError("the GPU fell off"));
  }
  // Nobody was tried again.
  EXPECT_THAT(StepTexts(), ElementsAre("1:0+1s", "2:0+1s 3:0+1s 4:0+1s"));
  EXPECT_EQ(engine_->stats().device, absl::DataLossError("the GPU fell off"));
}

TEST_F(FaultTest, AfterTheDeviceIsLostNobodyComesIn) {
  model_.FailStep(0, absl::DataLossError("the GPU fell off"));
  Start();
  EXPECT_TRUE(absl::IsDataLoss(Submit(Generate({1}, 2)).record->Wait().status));
  const absl::Status lost =
      absl::UnavailableError("the device is lost: the GPU fell off");
  EXPECT_EQ(Refusal(Generate({1}, 2)), lost);
  EXPECT_EQ(engine_->CheckAdmission({}), lost);
}

TEST_F(FaultTest, ARunnerThatThrowsIsTriedAgainItemByItem) {
  model_.ThrowAtStep(1, "bad kernel");
  model_.ThrowAtStep(3, "bad kernel again");
  Start();
  const auto requests =
      SubmitTogether({Generate({1}, 2), Generate({2}, 2), Generate({3}, 2)});
  ExpectAnswer(requests[0], {1}, 2);
  EXPECT_EQ(requests[1].record->Wait().status,
            absl::InternalError("the model runner threw: bad kernel again"));
  ExpectAnswer(requests[2], {3}, 2);
  EXPECT_THAT(StepTexts(), ElementsAre("1:0+1s", "2:0+1s 3:0+1s 4:0+1s", "2:0+1s",
                                       "3:0+1s", "4:0+1s", "2:1+1s 4:1+1s"));
  ExpectAllBlocksBack();
}

// The runner learns of an end in the next step that succeeds, once.
TEST_F(FaultTest, WhoIsOverIsToldUntilAStepSucceeds) {
  model_.FailStep(1, absl::UnavailableError("cable"));
  Start();
  const auto requests = SubmitTogether({Generate({1}, 1), Generate({2}, 2)});
  requests[1].record->Wait();
  engine_->Drain(absl::InfiniteFuture());
  std::vector<std::vector<RequestId>> released;
  for (const RecordedStep& step : model_.steps()) released.push_back(step.released);
  const RequestId first{1};
  EXPECT_THAT(released, ElementsAre(IsEmpty(), ElementsAre(first), ElementsAre(first),
                                    ElementsAre(requests[0].id), IsEmpty()));
}

TEST_F(FaultTest, CancelledBeforeItsTurnToBeTriedAlone) {
  model_.FailStep(1, absl::UnavailableError("cable"));
  Start();
  AtStep(2, [this] { engine_->Cancel(RequestId{3}); });
  const auto requests =
      SubmitTogether({Generate({1}, 2), Generate({2}, 2), Generate({3}, 2)});
  ExpectAnswer(requests[0], {1}, 2);
  ExpectAnswer(requests[2], {3}, 2);
  EXPECT_EQ(requests[1].record->Wait().status,
            absl::CancelledError("the request was cancelled"));
  EXPECT_THAT(StepTexts(), ElementsAre("1:0+1s", "2:0+1s 3:0+1s 4:0+1s", "2:0+1s",
                                       "4:0+1s", "2:1+1s 4:1+1s"));
  ExpectAllBlocksBack();
}

TEST_F(FaultTest, ACopyIsMadeWhenItsStepIsTriedAgain) {
  options_.prefix_caching = PrefixCaching::kPerTenant;
  Start();
  Run(Generate(Tokens(20, 0), 1));  // two steps
  model_.set_fail_step([](const StepInput& input) {
    return input.items.size() == 2 && !input.copies.empty()
               ? absl::ResourceExhaustedError("device memory")
               : absl::OkStatus();
  });
  const std::vector<TokenId> prompt = Tokens(18, 0);
  const auto requests = SubmitTogether({Generate(prompt, 3), Generate({2}, 3)});
  ExpectAnswer(requests[0], prompt, 3);
  ExpectAnswer(requests[1], {2}, 3);
  const std::vector<RecordedStep> steps = model_.steps();
  EXPECT_EQ(Text(steps[3]), "3:17+1s 4:0+1s");
  EXPECT_EQ(steps[3].copies.size(), 1u);
  EXPECT_EQ(Text(steps[4]), "3:17+1s");
  EXPECT_EQ(steps[4].copies.size(), 1u);
  EXPECT_EQ(steps[5].copies.size(), 0u);
  ExpectAllBlocksBack();
}

// A copy that is never made holds no block: the next request needs all.
TEST_F(FaultTest, ACopyWhoseRequestFailedHoldsNothing) {
  options_.kv.num_blocks = 10;
  options_.prefix_caching = PrefixCaching::kPerTenant;
  Start();
  Run(Generate(Tokens(20, 0), 1));
  model_.FailStep(2, absl::InternalError("bits"));
  EXPECT_EQ(Run(Generate(Tokens(18, 0), 3)).status, absl::InternalError("bits"));
  EXPECT_EQ(model_.steps()[2].copies.size(), 1u);
  EXPECT_EQ(engine_->stats().free_blocks, 10);
  const Submitted large = Submit(Generate(Tokens(40, 50), 1));
  ASSERT_TRUE(FinishesSoon(large));
  ExpectAnswer(large, Tokens(40, 50), 1);
  EXPECT_EQ(model_.steps()[3].copies.size(), 0u);
}

// Its whole pages were published when they were computed; the last one, begun, is not.
TEST_F(FaultTest, WhoFailedPublishesNothingMore) {
  options_.prefix_caching = PrefixCaching::kPerTenant;
  model_.set_fail_item([](const StepItem& item) {
    return item.id == RequestId{1} && item.begin == 18 ? absl::DataLossError("bits")
                                                       : absl::OkStatus();
  });
  Start();
  EXPECT_EQ(Run(Generate(Tokens(18, 0), 3)).status, absl::DataLossError("bits"));
  EXPECT_EQ(Run(Generate(Tokens(18, 0), 3)).usage.cached_tokens, 16);
  EXPECT_EQ(Run(Generate(Tokens(18, 0), 3)).usage.cached_tokens, 17);
  ExpectAllBlocksBack();
}

TEST_F(FaultTest, ACopyThatWasNotMadeIsNotPublished) {
  options_.prefix_caching = PrefixCaching::kPerTenant;
  Start();
  Run(Generate(Tokens(20, 0), 1));
  model_.set_fail_step([](const StepInput& input) {
    return input.items.size() == 2 && !input.copies.empty()
               ? absl::ResourceExhaustedError("device memory")
               : absl::OkStatus();
  });
  AtStep(3, [this] { engine_->Cancel(RequestId{3}); });
  const auto requests = SubmitTogether({Generate(Tokens(18, 0), 3), Generate({2}, 3)});
  EXPECT_EQ(requests[0].record->Wait().status.code(), absl::StatusCode::kCancelled);
  ExpectAnswer(requests[1], {2}, 3);
  ExpectAnswer(Submit(Generate(Tokens(20, 0), 2)), Tokens(20, 0), 2);
  ExpectAllBlocksBack();
}

struct Gone {
  int64_t step;  // in which it is cancelled
  RequestStage stage;
  Usage usage;
};

class ClientGoneTest : public FaultTest, public testing::WithParamInterface<Gone> {};

// Request 3 waits in step 0, reads its prompt in 1 and 2, and answers from then on. In
// step 15 it has to make room for request 2; it would go on in 31.
TEST_P(ClientGoneTest, ItsBlocksAreFreeAfterTheStep) {
  const Gone& gone = GetParam();
  options_.kv.num_blocks = 12;
  options_.max_running = 2;
  Start(&observer_);
  AtStep(gone.step, [this] { engine_->Cancel(RequestId{3}); });
  const auto requests =
      SubmitTogether({Generate(Tokens(8, 0), 30), Generate(Tokens(12, 50), 30)});
  const Finished finished = requests[1].record->Wait();
  EXPECT_EQ(finished.status, absl::CancelledError("the request was cancelled"));
  EXPECT_EQ(finished.usage, gone.usage);
  ExpectAnswer(requests[0], Tokens(8, 0), 30);
  engine_->Drain(absl::InfiniteFuture());
  for (const auto& end : observer_.ends()) {
    if (end.report.code == absl::StatusCode::kOk) continue;
    EXPECT_EQ(end.report.code, absl::StatusCode::kCancelled);
    EXPECT_EQ(end.report.stage, gone.stage);
    EXPECT_EQ(end.report.started, gone.stage != RequestStage::kQueue);
    EXPECT_EQ(end.report.usage, gone.usage);
    EXPECT_EQ(end.report.wasted_tokens,
              gone.usage.prompt_tokens + gone.usage.generated_tokens);
  }
  EXPECT_EQ(StepTexts().back(), "2:36+1s");
  EXPECT_EQ(engine_->stats().preemptions, gone.step > 15);
  ExpectAllBlocksBack();
}

INSTANTIATE_TEST_SUITE_P(
    InEachState, ClientGoneTest,
    testing::Values(
        Gone{0, RequestStage::kQueue, {}},
        Gone{1, RequestStage::kPrefill, {.prompt_tokens = 8}},
        Gone{8, RequestStage::kDecode, {.prompt_tokens = 12, .generated_tokens = 7}},
        Gone{25, RequestStage::kDecode, {.prompt_tokens = 12, .generated_tokens = 13}}));

TEST_F(FaultTest, ADeadlineIsNeverAnAnswer) {
  Start(&observer_);
  EngineRequest late = Generate(Tokens(20, 0), 10);
  late.deadline = clock_.Now() + absl::Seconds(6);
  const auto requests = SubmitTogether({late, Generate({2}, 10)});
  const Finished finished = requests[0].record->Wait();
  EXPECT_EQ(finished.status, absl::DeadlineExceededError("the deadline passed after 6s"));
  EXPECT_EQ(finished.usage, (Usage{.prompt_tokens = 20, .generated_tokens = 4}));
  ExpectAnswer(requests[1], {2}, 10);
  engine_->Drain(absl::InfiniteFuture());
  EXPECT_EQ(observer_.ends()[1].report.code, absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(observer_.ends()[1].report.wasted_tokens, 24);
  ExpectAllBlocksBack();
}

TEST_F(FaultTest, ThousandCancelsAtRandomTimes) {
  options_.prefix_caching = PrefixCaching::kPerTenant;
  options_.max_waiting = 1000;
  Start();
  std::mt19937 random(1);
  std::vector<Submitted> requests;
  for (int i = 0; i < 1000; ++i) {
    const auto count = static_cast<int32_t>(1 + random() % 30);
    std::vector<TokenId> tokens = Tokens(2 + random() % 40, random() % 3 * 30);
    if (random() % 2 == 0) tokens.back() = 97;
    requests.push_back(Submit(i % 4 == 0 ? Score(tokens) : Generate(tokens, count)));
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 40));
    engine_->Cancel(requests[random() % requests.size()].id);
    engine_->Cancel(
        requests[requests.size() - 1 - random() % std::min<size_t>(i + 1, 8)].id);
  }
  int cancelled = 0;
  for (const Submitted& request : requests) {
    const absl::Status status = request.record->Wait().status;
    if (status.ok()) continue;
    EXPECT_EQ(status, absl::CancelledError("the request was cancelled"));
    ++cancelled;
  }
  EXPECT_GT(cancelled, 0);
  ExpectAllBlocksBack();
}

}  // namespace
}  // namespace quire

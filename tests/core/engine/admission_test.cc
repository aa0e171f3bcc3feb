#include <chrono>
#include <cmath>
#include <string>
#include <thread>
#include <vector>

#include "core/engine/request_limits.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/core/engine/batching_fixture.h"
#include "tests/support/refused.h"

// Who may come in, and what is expected of the time it takes.
namespace quire {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;

constexpr auto kExhausted = absl::StatusCode::kResourceExhausted;

class AdmissionTest : public BatchingFixture {
 protected:
  // One request is being computed, of one token that is to be followed by `new_tokens`.
  Submitted StartBlocked(int32_t new_tokens = 1) {
    Start(&observer_);
    model_.Block();
    Submitted running = Submit(Generate({kFirstToken}, new_tokens));
    model_.WaitUntilBlocked();
    return running;
  }
  EngineRequest WithDeadline(EngineRequest request, absl::Duration from_now) {
    request.deadline = clock_.Now() + from_now;
    return request;
  }
  void ReleaseAndDrain() {
    model_.Release();
    engine_->Drain(absl::InfiniteFuture());
  }

  RecordingObserver observer_;
};

TEST_F(AdmissionTest, TheWaitingRoomIsBoundedInRequests) {
  options_.max_running = 2;
  options_.max_waiting = 3;
  StartBlocked();
  for (int i = 0; i < 4; ++i) Submit(Generate({1}, 1));
  const absl::Status refused = Refusal(Generate({1}, 1));
  EXPECT_EQ(refused, [] {
    absl::Status status = absl::ResourceExhaustedError(
        "max_running is 2 and max_waiting is 3; as many requests (5) are in work or "
        "wait");
    status.SetPayload("quire/refusal", absl::Cord("2"));
    return status;
  }());
  EXPECT_EQ(RefusalOf(refused), Refusal::kWaitingRoomFull);
  ReleaseAndDrain();
  EXPECT_EQ(engine_->stats().waiting, 0);
}

TEST_F(AdmissionTest, TheWaitingRoomIsBoundedInTokens) {
  options_.max_waiting_tokens = 30;
  StartBlocked();
  // Whoever finds the room empty may come in.
  Submit(Generate(Tokens(20, 0), 1));
  const absl::Status refused = Refusal(Generate(Tokens(11, 0), 1));
  EXPECT_TRUE(Refused(refused, kExhausted,
                      "max_waiting_tokens is 30; prompts of 20 tokens wait already, and "
                      "this one has 11"));
  EXPECT_EQ(RefusalOf(refused), Refusal::kWaitingRoomFull);
  Submit(Generate(Tokens(10, 0), 1));
  EXPECT_EQ(engine_->stats().waiting_tokens, 30);
  EXPECT_EQ(Refusal(Generate({1}, 1)).code(), kExhausted);
  ReleaseAndDrain();
  EXPECT_EQ(engine_->stats().waiting_tokens, 0);
}

TEST_F(AdmissionTest, AnEmptyWaitingRoomTakesAPromptOfAnySize) {
  options_.max_waiting_tokens = 0;
  Start();
  EXPECT_EQ(Run(Generate(Tokens(150, 0), 1)).status, absl::OkStatus());
}

TEST_F(AdmissionTest, ADeadlineThatCannotBeMetIsRefusedAtOnce) {
  options_.admission = AdmissionMode::kEnforce;
  Start();
  // Ten steps of 16 rows, a second each.
  const absl::Status refused =
      Refusal(WithDeadline(Generate(Tokens(160, 0), 1), absl::Milliseconds(9999)));
  EXPECT_TRUE(Refused(refused, kExhausted,
                      "the deadline is 9.999s away; with the load of now the first token "
                      "is expected after 10s and the end after 10s"));
  EXPECT_EQ(RefusalOf(refused), Refusal::kDeadlineTooClose);
  EXPECT_EQ(Run(WithDeadline(Generate(Tokens(160, 0), 1), absl::Seconds(11))).status,
            absl::OkStatus());
}

TEST_F(AdmissionTest, ReportCountsWhoWouldBeRefusedOnce) {
  options_.admission = AdmissionMode::kReport;
  Start(&observer_);
  const auto request = WithDeadline(Generate(Tokens(160, 0), 1), absl::Seconds(5));
  EXPECT_EQ(engine_->CheckAdmission(ShapeOf(request)), absl::OkStatus());
  EXPECT_EQ(observer_.would_refuse(), 0);
  EXPECT_EQ(Run(request).status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(observer_.would_refuse(), 1);
  EXPECT_EQ(Run(WithDeadline(Generate({1}, 1), absl::Seconds(5))).status,
            absl::OkStatus());
  EXPECT_EQ(observer_.would_refuse(), 1);
}

TEST_F(AdmissionTest, OffLooksAtNoDeadline) {
  Start(&observer_);
  const auto request = WithDeadline(Generate(Tokens(160, 0), 1), absl::Seconds(5));
  EXPECT_EQ(Run(request).status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(observer_.would_refuse(), 0);
}

TEST_F(AdmissionTest, LaterPassesCountForTheDeadline) {
  options_.admission = AdmissionMode::kEnforce;
  Start();
  EngineRequest request = WithDeadline(Score(Tokens(17, 0)), absl::Seconds(10));
  request.scheduling.later_prompt_tokens = 160;
  EXPECT_TRUE(Refused(Refusal(request), kExhausted,
                      "the first token is expected after 1s and the end after 11s"));
  request.deadline = clock_.Now() + absl::Seconds(11);
  EXPECT_EQ(Run(request).status, absl::OkStatus());
}

TEST_F(AdmissionTest, PassesOfAnAdmittedCallAreNotRefused) {
  options_.admission = AdmissionMode::kEnforce;
  options_.max_running = 1;
  options_.max_waiting = 0;
  options_.max_waiting_tokens = 1;
  StartBlocked();
  EngineRequest request = WithDeadline(Generate(Tokens(160, 0), 1), absl::Seconds(5));
  EXPECT_EQ(RefusalOf(Refusal(request)), Refusal::kWaitingRoomFull);
  request.scheduling.admitted = true;
  const Submitted admitted = Submit(request);
  EXPECT_EQ(engine_->CheckAdmission(ShapeOf(request)), absl::OkStatus());
  ReleaseAndDrain();
  EXPECT_EQ(admitted.record->Wait().status.code(), absl::StatusCode::kDeadlineExceeded);
  // What can never work is refused all the same.
  request = Generate(Tokens(160, 0), 30);
  options_.kv.num_blocks = 40;
  Start();
  request.scheduling.admitted = true;
  EXPECT_EQ(RefusalOf(Refusal(request)), Refusal::kTooLarge);
}

TEST_F(AdmissionTest, CheckAdmissionSaysWhatSubmitSays) {
  options_.admission = AdmissionMode::kEnforce;
  options_.max_waiting = 2;
  options_.max_running = 1;
  options_.kv.num_blocks = 40;
  StartBlocked();
  Submit(Generate(Tokens(30, 0), 1));
  const std::vector<EngineRequest> requests = {
      Generate({1}, 1),
      Generate(Tokens(160, 0), 2),
      WithDeadline(Generate(Tokens(100, 0), 1), absl::Seconds(3)),
      WithDeadline(Generate({1}, 1), absl::ZeroDuration()),
      WithDeadline(Generate({1}, 1), absl::Seconds(-1)),
      WithPriority(Generate({1}, 1), 3),
      WithPriority(Generate({1}, 1), -3),
      OfTenant(Generate({1}, 1), std::string(65, 't')),
      OfTenant(Score(Tokens(5, 0)), std::string(64, 't')),
      Generate({1}, 1)};  // the room is full now
  std::vector<std::string> said;
  for (const EngineRequest& request : requests) {
    const absl::Status check = engine_->CheckAdmission(ShapeOf(request));
    EXPECT_EQ(check, Refusal(request));
    EXPECT_EQ(RefusalOf(check) == Refusal::kNone, check.code() != kExhausted);
    said.push_back(check.ToString());
  }
  EXPECT_EQ(said[0], "OK");
  ReleaseAndDrain();
  EXPECT_EQ(engine_->CheckAdmission(ShapeOf(requests[0])),
            absl::UnavailableError("the engine is draining"));
}

TEST_F(AdmissionTest, SchedulingOutOfRangeIsInvalid) {
  Start();
  const auto kInvalid = absl::StatusCode::kInvalidArgument;
  EXPECT_TRUE(Refused(Refusal(WithPriority(Generate({1}, 1), 3)), kInvalid,
                      "priority is 3; it must be in [-2, 2]"));
  EXPECT_TRUE(Refused(Refusal(WithPriority(Generate({1}, 1), -3)), kInvalid,
                      "priority is -3; it must be in [-2, 2]"));
  EXPECT_TRUE(Refused(Refusal(OfTenant(Generate({1}, 1), std::string(65, 't'))), kInvalid,
                      "tenant has 65 bytes; it must have at most 64"));
  EXPECT_EQ(Run(WithPriority(Generate({1}, 1), -2)).status, absl::OkStatus());
  EXPECT_EQ(Run(OfTenant(Generate({1}, 1), std::string(64, 't'))).status,
            absl::OkStatus());
}

TEST_F(AdmissionTest, NothingWaitsForAStep) {
  options_.max_waiting = 10'000;
  options_.admission = AdmissionMode::kEnforce;
  const Submitted running = StartBlocked();
  const auto began = std::chrono::steady_clock::now();
  const EngineRequest late = WithDeadline(Generate(Tokens(160, 0), 1), absl::Seconds(2));
  for (int i = 0; i < 200; ++i) {
    Submit(Generate({1, 2}, 1));
    EXPECT_EQ(RefusalOf(Refusal(late)), Refusal::kDeadlineTooClose);
    engine_->Estimate(ShapeOf(late));
    engine_->stats();
  }
  engine_->Cancel(running.id);
  EXPECT_FALSE(running.record->finished());
  // 10 ms each are allowed; sanitizers and other tests take their share of the time.
  EXPECT_LT(std::chrono::steady_clock::now() - began, std::chrono::seconds(10));
  EXPECT_EQ(engine_->stats().waiting, 200);
  ReleaseAndDrain();
}

TEST_F(AdmissionTest, AnIdleEngineIsEstimatedLikeAnEmptyOne) {
  Start();
  const RequestEstimate estimate =
      engine_->Estimate(ShapeOf(Generate(Tokens(32, 0), 20)));
  EXPECT_EQ(estimate.first_token, absl::Seconds(2));
  EXPECT_EQ(estimate.first_token_alone, absl::Seconds(2));
  EXPECT_EQ(estimate.expected_answer_share, 0.5);
  EXPECT_EQ(estimate.end, absl::Seconds(2 + 9));  // ten tokens
  EXPECT_EQ(estimate.end_alone, absl::Seconds(2 + 9));
}

TEST_F(AdmissionTest, OthersTakeTime) {
  StartBlocked(40);
  for (int i = 0; i < 3; ++i) Submit(Generate(Tokens(48, i), 40));
  const RequestEstimate estimate =
      engine_->Estimate(ShapeOf(Generate(Tokens(16, 0), 20)));
  EXPECT_EQ(estimate.first_token_alone, absl::Seconds(1));
  EXPECT_EQ(estimate.end_alone, absl::Seconds(10));
  // 144 rows are before it, and each step has at most 15 beside the running one.
  EXPECT_GE(estimate.first_token, absl::Seconds(10));
  EXPECT_LE(estimate.first_token, absl::Seconds(15));
  EXPECT_GE(estimate.end, estimate.first_token + absl::Seconds(8));
  const EngineStats stats = engine_->stats();
  // Another tenant's turn comes after the first of the three, and an urgent one's at
  // once.
  const auto first_token = [this](const EngineRequest& request) {
    return engine_->Estimate(ShapeOf(request)).first_token;
  };
  EXPECT_LE(first_token(OfTenant(Generate(Tokens(16, 0), 20), "b")), absl::Seconds(5));
  EXPECT_LE(first_token(WithPriority(Generate(Tokens(16, 0), 20), 1)), absl::Seconds(2));
  EXPECT_GE(stats.prefill_backlog, absl::Seconds(9));
  EXPECT_LE(stats.prefill_backlog, absl::Seconds(10));
  EXPECT_GT(stats.first_token_delay, absl::Seconds(9));
  ReleaseAndDrain();
}

// A newcomer is not ahead of all who were served before it came.
TEST_F(AdmissionTest, ANewTenantWaitsForItsTurn) {
  Start();
  Run(Generate(Tokens(40, 0), 10));
  model_.Block();
  Submit(Generate({1}, 40));
  model_.WaitUntilBlocked();
  Submit(Generate(Tokens(48, 0), 40));
  const absl::Duration first_token =
      engine_->Estimate(ShapeOf(OfTenant(Generate(Tokens(16, 0), 20), "b"))).first_token;
  EXPECT_GE(first_token, absl::Seconds(4));  // 64 rows, of 15 a step
  EXPECT_LE(first_token, absl::Seconds(6));
  ReleaseAndDrain();
}

TEST_F(AdmissionTest, TheRatioOfRealToEstimatedTimesIsReported) {
  Start(&observer_);
  model_.set_on_step([this](const StepInput&) { clock_.Advance(absl::Seconds(2)); });
  Run(Generate(Tokens(32, 0), 10));
  engine_->Drain(absl::InfiniteFuture());
  const FinishReport report = observer_.ends().at(0).report;
  EXPECT_NEAR(report.first_token_ratio, 2.0, 1e-9);  // 4 s, not 2
  EXPECT_NEAR(report.end_ratio, 22.0 / 6.0, 1e-9);   // 11 steps, not 2 + 4
  EXPECT_NEAR(engine_->Estimate({.new_tokens = 10}).expected_answer_share, 0.53, 1e-9);
}

TEST_F(AdmissionTest, NoRatioWithoutAnEnd) {
  Start(&observer_);
  Run(WithDeadline(Generate(Tokens(32, 0), 10), absl::Seconds(4)));
  engine_->Drain(absl::InfiniteFuture());
  const FinishReport report = observer_.ends().at(0).report;
  EXPECT_EQ(report.code, absl::StatusCode::kDeadlineExceeded);
  EXPECT_NEAR(report.first_token_ratio, 1.0, 1e-9);
  EXPECT_EQ(report.end_ratio, 0);
}

TEST_F(AdmissionTest, WhoRanOutOfTimeTeachesToo) {
  Start(&observer_);
  model_.set_on_step([this](const StepInput&) { clock_.Advance(absl::Seconds(2)); });
  Run(WithDeadline(Generate(Tokens(160, 0), 1), absl::Seconds(15)));
  engine_->Drain(absl::InfiniteFuture());
  const FinishReport report = observer_.ends().at(0).report;
  EXPECT_NEAR(report.first_token_ratio, 1.6, 1e-9);  // 16 s and no token, not 10
  EXPECT_NEAR(report.end_ratio, 1.6, 1e-9);
}

// Who needs blocks waits for the end of the first that gives enough of them back.
TEST_F(AdmissionTest, WaitingForMemoryIsEstimated) {
  options_.kv.num_blocks = 28;
  Start(&observer_);
  model_.set_on_step([this](const StepInput&) {
    clock_.Advance(absl::Seconds(1));
    if (model_.num_steps() == 4) model_.Block();
  });
  const auto requests =
      SubmitTogether({Generate(Tokens(16, 0), 8), Generate(Tokens(16, 50), 50)});
  model_.WaitUntilBlocked();
  const EngineRequest large = Generate(Tokens(56, 20), 2);  // 15 blocks
  const absl::Duration estimate = engine_->Estimate(ShapeOf(large)).first_token;
  EXPECT_GE(estimate, absl::Seconds(4));
  EXPECT_LE(estimate, absl::Seconds(14));
  const Submitted submitted = Submit(large);
  ReleaseAndDrain();
  const Timings timings = submitted.record->Wait().timings;
  EXPECT_GE(timings.queue, absl::Seconds(5));  // until the first one was over
  EXPECT_LE(timings.queue + timings.prefill, absl::Seconds(14));
}

// Steps take twice as long as the cost says.
TEST_F(AdmissionTest, EstimatesMoveTowardsTheTruth) {
  Start();
  model_.set_on_step([this](const StepInput&) { clock_.Advance(absl::Seconds(2)); });
  const RequestShape shape = ShapeOf(Generate(Tokens(16, 0), 1));
  EXPECT_EQ(engine_->Estimate(shape).first_token_alone, absl::Seconds(1));
  Run(Generate({1}, 20));
  // Each step corrects a twentieth of what is left of the error.
  const double left = std::log(2.0) * std::pow(0.95, 20);
  EXPECT_NEAR(absl::ToDoubleSeconds(engine_->Estimate(shape).first_token_alone),
              2 * std::exp(-left), 1e-6);
  EXPECT_GT(engine_->stats().step_cost_error, 0.2);
  for (int i = 0; i < 6; ++i) Run(Generate({1}, 40));
  EXPECT_NEAR(absl::ToDoubleSeconds(engine_->Estimate(shape).first_token_alone), 2, 0.01);
  EXPECT_LT(engine_->stats().step_cost_error, 0.01);
}

}  // namespace
}  // namespace quire

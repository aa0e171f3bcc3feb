#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/core/engine/batching_fixture.h"

// The same requests on a runner that computes itself and on one whose device does, so
// that the engine plans ahead and tells later: nobody can tell.
namespace quire {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::Not;

// What an observer was told, in order.
class OrderObserver final : public EngineObserver {
 public:
  void OnStep(const StepReport& step) override {
    told_.push_back(absl::StrCat("step ", step.sequences, " ", step.prompt_tokens, " ",
                                 step.generated_tokens, " ", step.recomputed_tokens, " ",
                                 step.inter_token.size(), " ",
                                 absl::FormatDuration(step.elapsed)));
  }
  void OnFinished(const FinishReport& finished) override {
    told_.push_back(absl::StrCat("finished ", finished.code, " ",
                                 finished.usage.generated_tokens, " ",
                                 absl::FormatDuration(finished.device.total())));
  }
  void OnPlan(const ScheduleOptions& options, const ScheduleState& state,
              const StepPlan& plan) override {
    EXPECT_EQ(PlanStep(options, state), plan);  // as a trace would be replayed
    states_.push_back(state);
    told_.push_back(absl::StrCat("plan ", plan.preempt.size(), " ", plan.items.size()));
  }
  const std::vector<std::string>& told() const { return told_; }
  const std::vector<ScheduleState>& states() const { return states_; }

 private:
  std::vector<std::string> told_;
  std::vector<ScheduleState> states_;
};

struct Told {
  std::vector<std::string> steps;
  std::vector<ScheduleState> states;  // without the time and the prices
  std::vector<std::string> reports;
  std::vector<std::string> events;
  std::vector<absl::StatusCode> ends;
  std::vector<Usage> usage;
  std::vector<absl::Duration> times;
};

// Requests of all kinds with little memory; some are cancelled, late, fail, or come while
// a step is computed.
class TwinTest : public BatchingFixture,
                 public testing::WithParamInterface<PrefixCaching> {
 protected:
  static constexpr int64_t kLastArrival = 100;
  // Short, so that nobody becomes more urgent by waiting: a plan that was made ahead
  // notices that a step later.
  static constexpr absl::Duration kStep = absl::Milliseconds(10);
  // `launches`: on a runner with a device.
  Told RunAll(bool launches);
  std::vector<EngineRequest> Requests() const;
  void DuringStep(FakeModel& model, FakeClock& clock, Engine& engine,
                  std::vector<std::shared_ptr<SinkRecord>>& records);
};

std::vector<EngineRequest> TwinTest::Requests() const {
  std::vector<EngineRequest> requests;
  for (int i = 0; i < 60; ++i) {
    std::vector<TokenId> tokens = Tokens(1 + i * 7 % 45, 30 * (i % 3));
    EngineRequest request;
    if (i % 5 == 0 && tokens.size() > 1) {
      request = Score(std::move(tokens));
    } else {
      request = Generate(std::move(tokens), 1 + i * 11 % 50);
      if (i % 3 == 0) {
        std::get<GenerateRequest>(request.work).stop_tokens = {5, 17, 23, 42};
      }
    }
    if (i % 9 == 0) request.deadline = clock_.Now() + (40 + i) * kStep;
    AttentionOptions attention;
    if (i % 7 == 0) attention = {.mode = AttentionMode::kRefined, .compact = true};
    if (i % 11 == 0) attention = {.mode = AttentionMode::kFaithful};
    requests.push_back(
        WithAttention(OfTenant(std::move(request), std::string(i % 4, 't')), attention));
  }
  return requests;
}

void TwinTest::DuringStep(FakeModel& model, FakeClock& clock, Engine& engine,
                          std::vector<std::shared_ptr<SinkRecord>>& records) {
  clock.Advance(kStep);
  const int64_t step = model.num_steps();
  if (step % 23 == 0) engine.Cancel(RequestId{static_cast<uint64_t>(step / 2)});
  if (step % 10 == 0 && step < kLastArrival) {
    records.push_back(std::make_shared<SinkRecord>());
    ASSERT_TRUE(engine
                    .Submit(Generate(Tokens(step % 29 + 1, 10), 9),
                            std::make_unique<RecordingSink>(records.back()))
                    .ok());
  }
  if (step % 41 == 0) throw std::runtime_error("bad kernel");
}

Told TwinTest::RunAll(bool launches) {
  options_.kv.num_blocks = 60;
  options_.prefix_caching = GetParam();
  FakeModel model(100, 4);
  FakeClock clock;
  OrderObserver observer;
  std::unique_ptr<Engine> engine;
  std::vector<std::shared_ptr<SinkRecord>> records;
  model.set_next(NextOfAll);
  model.set_drop([](const StepItem& item) {
    return item.begin + item.tokens.size() > 12 ? std::vector<int32_t>{1}
                                                : std::vector<int32_t>{};
  });
  const auto act = [&](const StepInput&) { DuringStep(model, clock, *engine, records); };
  if (launches) {
    model.LaunchSteps(act);
  } else {
    model.set_on_step(act);
  }
  model.set_fail_item([](const StepItem& item) {
    return static_cast<uint64_t>(item.id) % 13 == 0 && item.begin > 20
               ? absl::InternalError("bits")
               : absl::OkStatus();
  });
  model.set_fail_step([&](const StepInput& input) {
    if (model.num_steps() % 37 != 0 || input.items.size() < 2) return absl::OkStatus();
    if (launches) act(input);  // it will not be launched
    return absl::ResourceExhaustedError("device memory");
  });
  engine = Engine::Start(options_, model.MakeRunner(), &observer, clock).value();
  model.Block();
  for (EngineRequest& request : Requests()) {
    records.push_back(std::make_shared<SinkRecord>());
    EXPECT_TRUE(
        engine
            ->Submit(std::move(request), std::make_unique<RecordingSink>(records.back()))
            .ok());
    if (records.size() == 1) model.WaitUntilBlocked();  // the others come together
  }
  const std::vector<std::shared_ptr<SinkRecord>> first = records;
  model.Release();
  for (const auto& record : first) record->Wait();
  EXPECT_GT(model.num_steps(), kLastArrival);
  engine->Drain(absl::InfiniteFuture());
  EXPECT_EQ(engine->stats().plans_ahead > engine->stats().steps / 4, launches);
  EXPECT_EQ(engine->stats().free_blocks, engine->stats().num_blocks);
  EXPECT_GT(engine->stats().preemptions, 0);
  Told told;
  for (const RecordedStep& step : model.steps()) told.steps.push_back(Text(step));
  told.reports = observer.told();
  told.states = observer.states();
  for (ScheduleState& state : told.states) {
    state.now_ns = 0;
    state.cost = {};
  }
  for (const auto& record : records) {
    const Finished finished = record->Wait();
    told.ends.push_back(finished.status.code());
    told.usage.push_back(finished.usage);
    for (const absl::Duration time :
         {finished.timings.queue, finished.timings.prefill, finished.timings.decode,
          finished.device.prefill, finished.device.decode}) {
      told.times.push_back(time);
    }
    for (std::string& event : record->events()) told.events.push_back(std::move(event));
  }
  return told;
}

TEST_P(TwinTest, StepsStatesEventsAndReceiptsAreTheSame) {
  const Told without = RunAll(false);
  const Told with = RunAll(true);
  EXPECT_EQ(with.steps, without.steps);
  ASSERT_EQ(with.states.size(), without.states.size());
  for (size_t i = 0; i < with.states.size(); ++i) {
    ASSERT_TRUE(with.states[i] == without.states[i]) << "plan " << i;
  }
  EXPECT_EQ(with.reports, without.reports);
  EXPECT_EQ(with.events, without.events);
  EXPECT_EQ(with.ends, without.ends);
  EXPECT_EQ(with.usage, without.usage);
  EXPECT_EQ(with.times, without.times);
  EXPECT_THAT(with.ends, Contains(absl::StatusCode::kCancelled));
  EXPECT_THAT(with.ends, Contains(absl::StatusCode::kDeadlineExceeded));
  EXPECT_THAT(with.ends, Contains(absl::StatusCode::kInternal));
  EXPECT_THAT(with.events, Not(Contains(HasSubstr("after the end"))));
}

INSTANTIATE_TEST_SUITE_P(WithAndWithoutACache, TwinTest,
                         testing::Values(PrefixCaching::kOff, PrefixCaching::kPerTenant,
                                         PrefixCaching::kShared));

}  // namespace
}  // namespace quire

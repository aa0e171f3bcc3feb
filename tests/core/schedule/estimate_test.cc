#include "core/schedule/estimate.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "tests/core/schedule/dice.h"
#include "tests/core/schedule/requests.h"
#include "tests/core/schedule/simulated_engine.h"

namespace quire {
namespace {

ScheduleOptions Options() {
  return {.max_running = 16,
          .step_tokens = 64,
          .long_prompt_tokens = 200,
          .max_long_prefills = 2,
          .step_ns = 0,
          .min_chunk_tokens = 4,
          .kv = {.num_blocks = 1000, .tokens_per_block = 16}};
}

ScheduleState State() {
  return {.free_blocks = 1000, .served_tokens = {0, 0}, .cost = CostOfRows()};
}

// 10 ms a step and one a row.
TEST(EstimateTest, AloneItIsReadInFullStepsThenDecodes) {
  ScheduledRequest request = Waiting(1, 128);  // 100 more tokens may be in the cache
  const TimeEstimate times = EstimateAlone(Options(), CostOfRows(), request, 10);
  EXPECT_EQ(times.first_token_ns, (2 * 10 + 128) * kMs);
  EXPECT_EQ(times.end_ns, (2 * 10 + 128 + 9 * 11) * kMs);  // ten tokens
}

TEST(EstimateTest, TheLastStepIsAWholeOne) {
  const TimeEstimate times = EstimateAlone(Options(), CostOfRows(), Waiting(1, 100), 1);
  EXPECT_EQ(times.first_token_ns, (2 * 10 + 100) * kMs);
  EXPECT_EQ(times.end_ns, times.first_token_ns);
}

TEST(EstimateTest, StepsOfPromptsAreNoLongerThanStepNs) {
  ScheduleOptions options = Options();
  options.step_ns = 30 * kMs;  // 20 rows
  const TimeEstimate times = EstimateAlone(options, CostOfRows(), Waiting(1, 100), 1);
  EXPECT_EQ(times.first_token_ns, (5 * 10 + 100) * kMs);
}

TEST(EstimateTest, WhoSamplesNothingIsOverWhenItIsRead) {
  ScheduledRequest request = Waiting(1, 64);
  request.samples = false;
  const TimeEstimate times = EstimateAlone(Options(), CostOfRows(), request, 50);
  EXPECT_EQ(times.first_token_ns, 74 * kMs);
  EXPECT_EQ(times.end_ns, 74 * kMs);
}

TEST(EstimateTest, WhatIsCachedIsNotReadAgain) {
  ScheduledRequest request = Waiting(1, 128);
  request.computed_tokens = 64;
  const TimeEstimate times = EstimateAlone(Options(), CostOfRows(), request, 1);
  EXPECT_EQ(times.first_token_ns, 74 * kMs);
}

TEST(EstimateTest, PromptsAheadAreReadFirst) {
  ScheduleState state = State();
  state.requests = {Waiting(1, 64, 1), Waiting(2, 64, 2), Waiting(3, 64, 3)};
  for (ScheduledRequest& request : state.requests) request.samples = false;
  const auto first_ns = [&](int index) {
    return EstimateTimes(Options(), state, state.requests[index], 1).first_token_ns;
  };
  EXPECT_EQ(first_ns(0), 74 * kMs);
  EXPECT_EQ(first_ns(1), 2 * 74 * kMs);
  EXPECT_EQ(first_ns(2), 3 * 74 * kMs);
  state.requests[2].priority = 0;
  EXPECT_EQ(first_ns(2), 74 * kMs);
  EXPECT_EQ(first_ns(0), 2 * 74 * kMs);
}

TEST(EstimateTest, ARequestThatIsNotInTheStateComesBehind) {
  ScheduleState state = State();
  state.requests = {Waiting(1, 64, 1)};
  state.requests[0].samples = false;
  ScheduledRequest request = Waiting(2, 64, 2);
  request.tenant = 7;  // the first of its tenant
  const TimeEstimate times = EstimateTimes(Options(), state, request, 1);
  EXPECT_EQ(times.first_token_ns, 2 * 74 * kMs);
}

TEST(EstimateTest, BesideDecodesAPromptGetsThePartOfTheStretch) {
  ScheduleState state = State();
  state.requests = {Decoding(1, 20, 25)};  // 11 ms a step, 19.8 with prompts
  state.requests[0].max_tokens = 5000;
  const TimeEstimate times = EstimateTimes(Options(), state, Waiting(2, 88), 100);
  // 8.8 rows a step; the decode goes on.
  EXPECT_NEAR(times.first_token_ns, 10 * 19.8 * kMs, 0.1 * kMs);
}

TEST(EstimateTest, AShortPromptDoesNotWaitForALongOne) {
  ScheduleState state = State();
  state.requests = {Begun(1, 10'000, 0, 1)};
  const TimeEstimate times = EstimateTimes(Options(), state, Waiting(2, 48, 2), 1);
  EXPECT_NEAR(times.first_token_ns, 74 * kMs, kMs);  // three quarters of the rows
}

TEST(EstimateTest, WhoLacksMemoryWaitsForTheFirstThatEnds) {
  ScheduleState state = State();
  state.free_blocks = 5;
  state.requests = {Decoding(1, 20, 25), Decoding(2, 150, 160)};
  state.requests[0].max_tokens = 25 + 99;  // 100 steps of 12 ms
  state.requests[1].max_tokens = 160 + 19;
  const TimeEstimate times = EstimateTimes(Options(), state, Waiting(3, 79), 100);
  // When the second is over: its 10 blocks are more than enough.
  EXPECT_GT(times.first_token_ns, 20 * 12 * kMs);
  EXPECT_LT(times.first_token_ns, (20 * 12 + 11 * 22) * kMs);
  for (ScheduledRequest& request : state.requests) request.freed_blocks = 0;  // unknown
  EXPECT_EQ(EstimateTimes(Options(), state, Waiting(3, 79), 100).first_token_ns,
            times.first_token_ns);
}

TEST(EstimateTest, WhoLacksAPlaceWaitsForTheFirstThatEnds) {
  ScheduleOptions options = Options();
  options.max_running = 1;
  ScheduleState state = State();
  state.requests = {Decoding(1, 20, 25)};
  state.requests[0].max_tokens = 25 + 9;  // 10 steps of 11 ms
  const TimeEstimate times = EstimateTimes(options, state, Waiting(2, 54), 100);
  EXPECT_EQ(times.first_token_ns, (10 * 11 + 64) * kMs);
}

TEST(EstimateTest, ARequestThatNeverFitsStillHasATime) {
  ScheduleOptions options = Options();
  options.kv.num_blocks = 2;
  const TimeEstimate times = EstimateAlone(options, CostOfRows(), Waiting(1, 640), 1);
  EXPECT_EQ(times.first_token_ns, (100 + 640) * kMs);
}

TEST(EstimateTest, ThePrefillBacklogIsTheTimeOfAllThatIsNotRead) {
  ScheduleOptions options = Options();
  ScheduleState state = State();
  EXPECT_EQ(PrefillBacklogNs(options, state), 0);
  state.requests = {Decoding(1, 20, 25), Begun(2, 100, 60), Waiting(3, 90)};
  EXPECT_EQ(PrefillBacklogNs(options, state), (3 * 10 + 40 + 90) * kMs);
  options.step_ns = 20 * kMs;  // ten rows a step
  EXPECT_EQ(PrefillBacklogNs(options, state), (13 * 10 + 40 + 90) * kMs);
}

// ---- Against PlanStep, run to the end

// Roughly a small model on two cores.
StepCost RealisticCost() {
  return {.step_ps = 4'000 * kMs,
          .row_ps = 250 * kMs,
          .sequence_ps = 100 * kMs,
          .sample_ps = 300 * kMs,
          .prefill_column_ps = kMs / 20,
          .decode_column_ps = kMs / 5,
          .sparse_row_ps = 50 * kMs,
          .scanned_column_ps = kMs / 50};
}

SimulatedEngine::Request RandomRequest(Dice& dice) {
  SimulatedEngine::Request made;
  ScheduledRequest& request = made.request;
  request.tenant = static_cast<uint32_t>(dice.Below(3));
  request.priority = static_cast<int32_t>(dice.In(1, 3));
  request.prompt_tokens = std::llround(20 * std::pow(100, 0.01 * dice.Below(101)));
  request.known_tokens = request.prompt_tokens;
  const int64_t answer = dice.In(1, 120);
  request.max_tokens = request.prompt_tokens + answer - 1;
  made.answer_tokens = dice.In(1, answer);
  if (dice.OneIn(4)) request.sparse_from = 512;
  return made;
}

struct Ratios {
  std::vector<double> first, end;
};

// A random load, some of it begun, then one more request and nothing else.
void AddCase(uint32_t seed, bool tight, Ratios& ratios) {
  Dice dice(seed);
  ScheduleOptions options;
  options.max_running = static_cast<int32_t>(dice.In(8, 32));
  options.step_tokens = 256;
  options.long_prompt_tokens = 600;
  options.step_ns = 100 * kMs;
  options.kv = {.num_blocks = tight ? 260 : 4000, .tokens_per_block = 16};
  SimulatedEngine engine(options, RealisticCost(), 3);
  for (int64_t i = dice.In(0, 40); i > 0; --i) engine.Submit(RandomRequest(dice));
  for (int64_t i = dice.In(0, 60); i > 0; --i) {
    engine.Apply(PlanStep(options, engine.State()));
  }
  const RequestId target = engine.Submit(RandomRequest(dice));
  const ScheduleState state = engine.State();
  const auto request =
      std::find_if(state.requests.begin(), state.requests.end(),
                   [&](const ScheduledRequest& r) { return r.id == target; });
  const TimeEstimate estimate = EstimateTimes(options, state, *request, 50);
  while (engine.ended().count(target) == 0) {
    engine.Apply(PlanStep(options, engine.State()));
  }
  const SimulatedEngine::Times& times = engine.ended().at(target);
  const auto ratio = [&](int64_t estimated, int64_t end_ns) {
    return static_cast<double>(estimated) /
           static_cast<double>(end_ns - times.accepted_ns);
  };
  ratios.first.push_back(ratio(estimate.first_token_ns, times.first_token_ns));
  ratios.end.push_back(ratio(estimate.end_ns, times.end_ns));
}

// Half of the ratios of estimated to real times are within a factor of `median`, nine of
// ten within one of `most`.
void ExpectWithin(const std::string& name, std::vector<double> ratios, double median,
                  double most) {
  std::vector<double> errors;
  for (const double ratio : ratios) errors.push_back(std::abs(std::log(ratio)));
  std::sort(errors.begin(), errors.end());
  std::sort(ratios.begin(), ratios.end());
  const size_t count = ratios.size();
  ::testing::Test::RecordProperty(name + "_ratio_median",
                                  std::to_string(ratios[count / 2]));
  ::testing::Test::RecordProperty(name + "_error_median",
                                  std::to_string(std::exp(errors[count / 2])));
  ::testing::Test::RecordProperty(name + "_error_p90",
                                  std::to_string(std::exp(errors[count * 9 / 10])));
  EXPECT_LT(std::exp(errors[count / 2]), median) << name;
  EXPECT_LT(std::exp(errors[count * 9 / 10]), most) << name;
  EXPECT_NEAR(ratios[count / 2], 1, 0.3) << name;
}

TEST(EstimateAgainstSimulationTest, WithMemoryForAll) {
  Ratios ratios;
  for (uint32_t seed = 1; seed <= 120; ++seed) AddCase(seed, false, ratios);
  ExpectWithin("first_token", ratios.first, 1.3, 2);
  ExpectWithin("end", ratios.end, 1.3, 2);
}

TEST(EstimateAgainstSimulationTest, WithLittleMemory) {
  Ratios ratios;
  for (uint32_t seed = 1001; seed <= 1120; ++seed) AddCase(seed, true, ratios);
  // How crowds of prompts share steps depends on who finds memory: known less well.
  ExpectWithin("first_token", ratios.first, 1.5, 3);
  ExpectWithin("end", ratios.end, 1.5, 3);
}

}  // namespace
}  // namespace quire

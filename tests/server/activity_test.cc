#include "server/observability/activity.h"

#include <gtest/gtest.h>

#include <array>

#include "server/observability/recent_latency.h"
#include "tests/support/fake_clock.h"

namespace quire::server {
namespace {

double Seconds(absl::Duration duration) { return absl::ToDoubleSeconds(duration); }

TEST(RecentLatencyTest, NothingSeenIsCountZero) {
  EXPECT_EQ(RecentLatency().Percentiles(absl::FromUnixSeconds(1000)).count, 0);
}

TEST(RecentLatencyTest, PercentilesAreRightWithinATenth) {
  RecentLatency latency;
  const absl::Time now = absl::FromUnixSeconds(1000);
  for (int i = 1; i <= 100; ++i) latency.Add(absl::Milliseconds(10 * i), now);
  const LatencyPercentiles seen = latency.Percentiles(now);
  EXPECT_EQ(seen.count, 100);
  EXPECT_NEAR(Seconds(seen.p50), 0.50, 0.05);
  EXPECT_NEAR(Seconds(seen.p95), 0.95, 0.095);
  EXPECT_NEAR(Seconds(seen.p99), 0.99, 0.099);
}

TEST(RecentLatencyTest, OneIsAllPercentiles) {
  RecentLatency latency;
  const absl::Time now = absl::FromUnixSeconds(1000);
  latency.Add(absl::Milliseconds(7), now);
  const LatencyPercentiles seen = latency.Percentiles(now);
  EXPECT_EQ(seen.p50, seen.p99);
  EXPECT_NEAR(Seconds(seen.p50), 0.007, 0.0007);
}

TEST(RecentLatencyTest, WhatIsOlderThanAMinuteIsForgotten) {
  RecentLatency latency;
  const absl::Time start = absl::FromUnixSeconds(1000);
  latency.Add(absl::Seconds(1), start);
  latency.Add(absl::Seconds(9), start + absl::Seconds(30));
  EXPECT_EQ(latency.Percentiles(start + absl::Seconds(54)).count, 2);
  EXPECT_EQ(latency.Percentiles(start + absl::Seconds(60)).count, 1);
  EXPECT_NEAR(Seconds(latency.Percentiles(start + absl::Seconds(60)).p50), 9, 0.9);
  EXPECT_EQ(latency.Percentiles(start + absl::Seconds(90)).count, 0);
  // Its place is taken by what comes a minute later.
  latency.Add(absl::Seconds(2), start + absl::Seconds(60));
  EXPECT_EQ(latency.Percentiles(start + absl::Seconds(61)).count, 2);
}

TEST(RecentLatencyTest, ExtremesStayInTheLastBuckets) {
  RecentLatency latency;
  const absl::Time now = absl::FromUnixSeconds(1000);
  latency.Add(absl::ZeroDuration(), now);
  latency.Add(absl::Seconds(-1), now);
  latency.Add(absl::InfiniteDuration(), now);
  const LatencyPercentiles seen = latency.Percentiles(now);
  EXPECT_EQ(seen.count, 3);
  EXPECT_LE(Seconds(seen.p50), 1e-4);
  EXPECT_GE(Seconds(seen.p99), 1600);
}

// Counts what is handed on.
class CountingObserver final : public EngineObserver {
 public:
  void OnStep(const StepReport&) override { ++calls[0]; }
  void OnFinished(const FinishReport&) override { ++calls[1]; }
  void OnWouldRefuse() override { ++calls[2]; }
  void OnPlan(const ScheduleOptions&, const ScheduleState&, const StepPlan&) override {
    ++calls[3];
  }
  std::array<int, 4> calls = {};
};

StepReport Step(absl::Span<const absl::Duration> pauses) {
  StepReport step;
  step.prefill[0].work = {.attention_macs = 100, .selection_macs = 20, .dense_macs = 400};
  step.decode[3].work = {.statistics_macs = 3, .audit_macs = 7, .dense_macs = 50};
  step.inter_token = pauses;
  return step;
}

TEST(ActivityTest, AddsUpAllWorkOfAllPhasesAndModes) {
  FakeClock clock;
  CountingObserver next;
  Activity activity(next, clock);
  const std::array pauses = {absl::Milliseconds(20), absl::Milliseconds(30)};
  activity.OnStep(Step(pauses));
  activity.OnStep(Step({}));
  activity.OnFirstToken(absl::Seconds(2));
  const ActivitySnapshot seen = activity.snapshot();
  EXPECT_EQ(seen.attention_macs, 260);
  EXPECT_EQ(seen.dense_attention_macs, 900);
  EXPECT_EQ(seen.inter_token.count, 2);
  EXPECT_EQ(seen.first_token.count, 1);
  clock.Advance(absl::Minutes(2));
  EXPECT_EQ(activity.snapshot().inter_token.count, 0);
  EXPECT_EQ(activity.snapshot().attention_macs, 260);
}

TEST(ActivityTest, WhatIsMeasuredAgainIsNotCounted) {
  FakeClock clock;
  CountingObserver next;
  Activity activity(next, clock);
  StepReport step = Step({});
  step.background = true;
  activity.OnStep(step);
  EXPECT_EQ(activity.snapshot().dense_attention_macs, 0);
  EXPECT_EQ(next.calls[0], 1);
}

TEST(ActivityTest, AddsUpShadows) {
  FakeClock clock;
  CountingObserver next;
  Activity activity(next, clock);
  activity.OnShadow({.own = absl::Seconds(2),
                     .dense = absl::Seconds(3),
                     .compared_tokens = 100,
                     .logprob_abs_delta = 0.01,
                     .top1_mismatches = 1});
  activity.OnShadow({.own = absl::Seconds(1),
                     .dense = absl::Seconds(4),
                     .compared_tokens = 300,
                     .logprob_abs_delta = 0.05,
                     .top1_mismatches = 7});
  activity.OnSavings({});
  activity.OnShadowSkipped(ShadowSkip::kBusy);
  const ShadowTotals shadows = activity.snapshot().shadows;
  EXPECT_EQ(shadows.count, 2);
  EXPECT_EQ(shadows.own, absl::Seconds(3));
  EXPECT_EQ(shadows.dense, absl::Seconds(7));
  EXPECT_EQ(shadows.compared_tokens, 400);
  EXPECT_DOUBLE_EQ(shadows.logprob_abs_delta, 16);
  EXPECT_EQ(shadows.top1_mismatches, 8);
}

class CountingSavings final : public SavingsObserver {
 public:
  void OnSavings(const SavingsReport&) override { ++calls[0]; }
  void OnShadow(const ShadowResult&) override { ++calls[1]; }
  void OnShadowSkipped(ShadowSkip) override { ++calls[2]; }
  std::array<int, 3> calls = {};
};

TEST(ActivityTest, HandsSavingsOn) {
  FakeClock clock;
  CountingObserver next;
  CountingSavings savings;
  Activity activity(next, clock, &savings);
  activity.OnSavings({});
  activity.OnShadow({});
  activity.OnShadowSkipped(ShadowSkip::kBusy);
  EXPECT_EQ(savings.calls, (std::array{1, 1, 1}));
}

TEST(ActivityTest, HandsEverythingOn) {
  FakeClock clock;
  CountingObserver next;
  Activity activity(next, clock);
  const AttentionReceipt receipt;
  activity.OnStep(Step({}));
  activity.OnFinished({.attention = receipt});
  activity.OnWouldRefuse();
  activity.OnPlan({}, {}, {});
  EXPECT_EQ(next.calls, (std::array{1, 1, 1, 1}));
}

}  // namespace
}  // namespace quire::server

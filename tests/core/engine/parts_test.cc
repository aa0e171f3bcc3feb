#include <atomic>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "core/engine/estimator.h"
#include "core/engine/measure_step_cost.h"
#include "core/engine/outbox.h"
#include "core/engine/tenants.h"
#include "core/engine/throughput.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/core/engine/recording_sink.h"

// The parts that the engine is made of, each alone.
namespace quire {
namespace {

using ::testing::ElementsAre;
using ::testing::ElementsAreArray;
using ::testing::IsEmpty;

// ---------------------------------------------------------------------------- tenants

TEST(TenantsTest, KeepTheirPlaceAndTheirTokens) {
  Tenants tenants;
  const uint32_t a = tenants.Acquire("a");
  const uint32_t b = tenants.Acquire("b");
  EXPECT_NE(a, b);
  EXPECT_EQ(tenants.Acquire("a"), a);
  EXPECT_EQ(tenants.active(), 2);
  tenants.AddServed(a, 10);
  tenants.AddServed(b, 7);
  tenants.Release(a);
  EXPECT_EQ(tenants.active(), 2);
  tenants.Release(a);
  EXPECT_EQ(tenants.active(), 1);
  EXPECT_EQ(tenants.Acquire("a"), a);
  EXPECT_EQ(tenants.served()[a], 10);
  EXPECT_EQ(tenants.served()[b], 7);
}

TEST(TenantsTest, WhoComesBackHasSavedNothingUp) {
  Tenants tenants;
  const uint32_t a = tenants.Acquire("a");
  tenants.AddServed(a, 5);
  tenants.Release(a);
  const uint32_t b = tenants.Acquire("b");
  const uint32_t c = tenants.Acquire("c");
  tenants.AddServed(b, 100);
  tenants.AddServed(c, 70);
  EXPECT_EQ(tenants.Acquire("a"), a);
  EXPECT_EQ(tenants.served()[a], 75);  // c began at 5, and is the least
  const uint32_t d = tenants.Acquire("d");
  EXPECT_EQ(tenants.served()[d], 75);
}

// While nobody was there nobody was kept waiting: who comes first then is not ahead of
// those who used what was idle.
TEST(TenantsTest, ItIsTheSameAfterAPauseOfAll) {
  Tenants tenants;
  const uint32_t a = tenants.Acquire("a");
  tenants.AddServed(a, 1000);
  tenants.Release(a);
  const uint32_t b = tenants.Acquire("b");
  tenants.Acquire("a");
  EXPECT_EQ(tenants.served()[b], 1000);
  EXPECT_EQ(tenants.served()[a], 1000);
}

TEST(TenantsTest, SerialsAreNeverGivenTwiceToDifferentOnes) {
  Tenants tenants;
  const uint32_t a = tenants.Acquire("a");
  const uint64_t serial = tenants.serial(a);
  tenants.Release(a);
  EXPECT_EQ(tenants.Find("a"), serial);
  EXPECT_EQ(tenants.Find("nobody"), std::nullopt);
  for (size_t i = 0; i < Tenants::kMaxIdle; ++i) {
    const uint32_t other = tenants.Acquire(std::to_string(i));
    EXPECT_NE(tenants.serial(other), serial);
    tenants.Release(other);
  }
  EXPECT_EQ(tenants.Find("a"), std::nullopt);  // the one that was idle longest
  EXPECT_NE(tenants.Find("0"), std::nullopt);
  EXPECT_NE(tenants.serial(tenants.Acquire("a")), serial);
}

TEST(TenantsTest, MemoryIsBounded) {
  Tenants tenants;
  const uint32_t held = tenants.Acquire("held");
  for (int i = 0; i < 5000; ++i) tenants.Release(tenants.Acquire(std::to_string(i)));
  EXPECT_EQ(tenants.served().size(), Tenants::kMaxIdle + 1);
  EXPECT_EQ(tenants.Acquire("held"), held);
}

// ----------------------------------------------------------------------------- outbox

TEST(OutboxTest, NothingIsDeliveredBeforeFlushAndAllInOrder) {
  const auto record = std::make_shared<SinkRecord>();
  std::atomic<bool> after{false};
  Outbox outbox;
  auto sink = std::make_unique<RecordingSink>(record);
  OutboxSink writer(outbox, *sink);
  writer.OnProgress(1, 2);
  writer.OnToken({.token = 7});
  writer.OnScores({{.token = 8}, {.token = 9}});
  writer.OnImportance({0.5f});
  std::this_thread::sleep_for(std::chrono::milliseconds(5));
  EXPECT_THAT(record->events(), IsEmpty());
  outbox.Flush();
  outbox.AddLast(std::move(sink), {.status = absl::DataLossError("x")},
                 [&] { after = true; });
  EXPECT_FALSE(record->finished());
  outbox.Flush();
  EXPECT_EQ(record->Wait().status, absl::DataLossError("x"));
  EXPECT_THAT(record->events(),
              ElementsAre("progress 1/2", "token 7", "scores 8 9", "importance 0.5"));
  while (!after) std::this_thread::yield();
  EXPECT_TRUE(record->sink_destroyed());  // before `after`
}

TEST(OutboxTest, TheDestructorDeliversWhatIsLeft) {
  const auto record = std::make_shared<SinkRecord>();
  {
    Outbox outbox;
    auto sink = std::make_unique<RecordingSink>(record);
    for (TokenId i = 0; i < 3; ++i) outbox.Add(*sink, TokenScore{.token = i});
    outbox.AddLast(std::move(sink), {}, nullptr);
  }
  EXPECT_TRUE(record->finished());
  EXPECT_TRUE(record->sink_destroyed());
  EXPECT_THAT(record->events(), ElementsAre("token 0", "token 1", "token 2"));
}

// A sink that stops at its first token until it is let go.
class SlowSink final : public RequestSink {
 public:
  void OnProgress(int64_t, int64_t) override {}
  void OnToken(const TokenScore&) override {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return free_; });
    ++tokens_;
  }
  void OnScores(std::vector<TokenScore>) override {}
  void OnImportance(std::vector<float>) override {}
  void OnFinished(const Finished&) override {}
  void LetGo() {
    std::lock_guard lock(mutex_);
    free_ = true;
    changed_.notify_all();
  }
  size_t tokens() const {
    std::lock_guard lock(mutex_);
    return tokens_;
  }

 private:
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  bool free_ = false;
  size_t tokens_ = 0;
};

TEST(OutboxTest, WhoWritesWaitsWhenTooMuchIsUndelivered) {
  constexpr size_t kSteps = 16, kEvents = Outbox::kMaxPending / 4;
  SlowSink sink;
  std::atomic<size_t> flushed{0};
  std::thread writer([&] {
    Outbox outbox;
    for (size_t step = 0; step < kSteps; ++step) {
      for (size_t i = 0; i < kEvents; ++i) outbox.Add(sink, TokenScore{.token = 1});
      outbox.Flush();
      ++flushed;
    }
  });
  // Five steps' events pass the bound; as many may have been taken for delivery before.
  while (flushed < 4) std::this_thread::yield();
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  EXPECT_LE(flushed, 10u);
  EXPECT_EQ(sink.tokens(), 0u);
  sink.LetGo();
  writer.join();
  EXPECT_EQ(flushed, kSteps);
  EXPECT_EQ(sink.tokens(), kSteps * kEvents);
}

// ------------------------------------------------------------------------- throughput

TEST(ThroughputTest, IsTheMeanOfTenWholeSeconds) {
  const absl::Time start = absl::FromUnixSeconds(1000);
  Throughput throughput;
  EXPECT_EQ(throughput.PerSecond(start), 0);
  throughput.Add(start, 40);
  throughput.Add(start + absl::Milliseconds(999), 60);
  EXPECT_EQ(throughput.PerSecond(start + absl::Milliseconds(999)), 0);
  EXPECT_EQ(throughput.PerSecond(start + absl::Seconds(1)), 10);
  throughput.Add(start + absl::Seconds(5), 30);
  EXPECT_EQ(throughput.PerSecond(start + absl::Seconds(10)), 13);
  EXPECT_EQ(throughput.PerSecond(start + absl::Seconds(11)), 3);
  throughput.Add(start + absl::Seconds(11), 50);  // in the first one's place
  EXPECT_EQ(throughput.PerSecond(start + absl::Seconds(12)), 8);
  EXPECT_EQ(throughput.PerSecond(start + absl::Seconds(16)), 5);
  EXPECT_EQ(throughput.PerSecond(start + absl::Seconds(22)), 0);
}

// -------------------------------------------------------------------------- estimator

struct Idle {
  ScheduleOptions options{.max_running = 8,
                          .step_tokens = 16,
                          .step_ns = 0,
                          .kv = {.num_blocks = 64, .tokens_per_block = 4}};
  ScheduleState state{
      .free_blocks = 64, .served_tokens = {0}, .cost = {.step_ps = 1'000'000'000'000}};
  ScheduledRequest request{
      .id = RequestId{1}, .known_tokens = 16, .prompt_tokens = 16, .max_tokens = 16 + 99};
};

double Seconds(int64_t ns) { return static_cast<double>(ns) / 1e9; }

TEST(TimeEstimatorTest, LearnsTheShareOfAnAnswer) {
  TimeEstimator estimator;
  EXPECT_EQ(estimator.expected_percent(), 50);
  for (int i = 0; i < 200; ++i) estimator.LearnAnswer(100, 100);
  EXPECT_EQ(estimator.expected_percent(), 100);
  estimator.LearnAnswer(0, 100);
  EXPECT_EQ(estimator.expected_percent(), 95);
  for (int i = 0; i < 200; ++i) estimator.LearnAnswer(0, 100);
  EXPECT_EQ(estimator.expected_percent(), 1);  // at least a token
  estimator.LearnAnswer(1000, 100);            // out of range: as 100
  EXPECT_EQ(estimator.expected_percent(), 5);
  estimator.LearnAnswer(1, 0);
  EXPECT_EQ(estimator.expected_percent(), 5);
}

TEST(TimeEstimatorTest, CorrectsByTheRatioOfRealToEstimated) {
  const Idle idle;
  TimeEstimator estimator;
  TimeEstimate estimate = estimator.Estimate(idle.options, idle.state, idle.request);
  EXPECT_EQ(Seconds(estimate.first_token_ns), 1);
  EXPECT_EQ(Seconds(estimate.end_ns), 50);
  EXPECT_DOUBLE_EQ(estimator.LearnFirstToken(estimate.first_token_ns, absl::Seconds(3)),
                   3);
  EXPECT_DOUBLE_EQ(estimator.LearnEnd(estimate.end_ns, absl::Seconds(25)), 0.5);
  estimate = estimator.Estimate(idle.options, idle.state, idle.request);
  EXPECT_NEAR(Seconds(estimate.first_token_ns), std::pow(3, 0.05), 1e-6);
  EXPECT_NEAR(Seconds(estimate.end_ns), 50 * std::pow(0.5, 0.05), 1e-6);
  // Alone is what an idle machine takes, not what was seen under load.
  EXPECT_EQ(Seconds(estimator.Alone(idle.options, idle.state.cost, idle.request).end_ns),
            50);
}

TEST(TimeEstimatorTest, CorrectionsHaveALimit) {
  const Idle idle;
  TimeEstimator estimator;
  for (int i = 0; i < 500; ++i) estimator.LearnFirstToken(1'000'000, absl::Hours(1));
  const TimeEstimate estimate =
      estimator.Estimate(idle.options, idle.state, idle.request);
  EXPECT_NEAR(Seconds(estimate.first_token_ns), std::exp(1.4), 1e-6);
  EXPECT_GE(estimate.end_ns, estimate.first_token_ns);
}

TEST(TimeEstimatorTest, ShortTimesTeachNothing) {
  TimeEstimator estimator;
  EXPECT_EQ(estimator.LearnFirstToken(999'999, absl::Seconds(1)), 0);
  EXPECT_EQ(estimator.LearnEnd(1'000'000, absl::Microseconds(999)), 0);
  EXPECT_EQ(estimator.LearnEnd(0, absl::Seconds(1)), 0);
}

// ------------------------------------------------------------------ measured step cost

// Takes as long as its price says, by the clock.
class PricedRunner final : public ModelRunner {
 public:
  explicit PricedRunner(const StepCost& cost) : cost_(cost) {}
  absl::StatusOr<std::vector<StepResult>> Step(const StepInput& input) override {
    const auto began = std::chrono::steady_clock::now();
    StepFeatures features;
    std::vector<StepResult> results;
    for (const StepItem& item : input.items) {
      features += FeaturesOf({.begin = item.begin,
                              .rows = static_cast<int64_t>(item.tokens.size()),
                              .samples = item.sample});
      results.push_back({.id = item.id, .sampled = TokenScore{}});
      computed_.push_back(item.id);
    }
    released_.insert(released_.end(), input.released.begin(), input.released.end());
    std::this_thread::sleep_until(began +
                                  std::chrono::nanoseconds(cost_.Nanoseconds(features)));
    return results;
  }
  const std::vector<RequestId>& computed() const { return computed_; }
  const std::vector<RequestId>& released() const { return released_; }

 private:
  const StepCost cost_;
  std::vector<RequestId> computed_, released_;
};

constexpr KvGeometry kKv{.num_blocks = 16, .tokens_per_block = 64};
constexpr ModelLimits kModel{.vocab_size = 1000, .max_positions = 2048};

// Steps of known prices, within 30 %: the prices themselves may be mixed up where few
// steps tell them apart.
TEST(MeasureStepCostTest, FindsWhatStepsTake) {
  const StepCost real{.step_ps = 3'000'000'000,
                      .row_ps = 150'000'000,
                      .sequence_ps = 50'000'000,
                      .sample_ps = 30'000'000,
                      .prefill_column_ps = 100'000,
                      .decode_column_ps = 400'000};
  PricedRunner runner(real);
  const absl::StatusOr<StepCost> cost = MeasureStepCost(runner, kKv, kModel);
  ASSERT_TRUE(cost.ok()) << cost.status();
  for (const RowRange& rows : {RowRange{0, 64, true}, RowRange{256, 64, true},
                               RowRange{448, 1, true}, RowRange{0, 1, true}}) {
    const auto wanted = static_cast<double>(real.Nanoseconds(FeaturesOf(rows)));
    EXPECT_NEAR(static_cast<double>(cost->Nanoseconds(FeaturesOf(rows))), wanted,
                0.3 * wanted)
        << rows.begin << " " << rows.rows;
  }
  // Not measured: in proportion.
  const StepCost prior = DefaultStepCost();
  const double scale =
      static_cast<double>(cost->row_ps) / static_cast<double>(prior.row_ps);
  EXPECT_NEAR(static_cast<double>(cost->sparse_row_ps),
              scale * static_cast<double>(prior.sparse_row_ps), 1);
  // All that it made up is over.
  EXPECT_THAT(runner.released(), ElementsAreArray(runner.computed()));
}

TEST(MeasureStepCostTest, IsOverSoonWhereStepsAreSlow) {
  PricedRunner runner({.step_ps = 400'000'000'000});
  const auto began = std::chrono::steady_clock::now();
  const absl::StatusOr<StepCost> cost = MeasureStepCost(runner, kKv, kModel);
  EXPECT_LT(std::chrono::steady_clock::now() - began, std::chrono::milliseconds(1900));
  ASSERT_TRUE(cost.ok());
  EXPECT_GT(cost->step_ps, DefaultStepCost().step_ps);
}

TEST(MeasureStepCostTest, RunsOnlyWhatFits) {
  class Checker final : public ModelRunner {
   public:
    absl::StatusOr<std::vector<StepResult>> Step(const StepInput& input) override {
      std::vector<StepResult> results;
      for (const StepItem& item : input.items) {
        EXPECT_LE(item.begin + item.tokens.size(), 100u);
        for (const BlockId block : item.blocks) EXPECT_LT(static_cast<int>(block), 2);
        results.push_back({.id = item.id});
      }
      return results;
    }
  };
  Checker runner;
  EXPECT_TRUE(MeasureStepCost(runner, {.num_blocks = 2, .tokens_per_block = 64},
                              {.vocab_size = 10, .max_positions = 100})
                  .ok());
}

TEST(MeasureStepCostTest, ErrorsAreTheRunners) {
  class Broken final : public ModelRunner {
   public:
    explicit Broken(bool items) : items_(items) {}
    absl::StatusOr<std::vector<StepResult>> Step(const StepInput& input) override {
      if (!items_) return absl::DataLossError("step");
      return std::vector<StepResult>{
          {.id = input.items[0].id, .status = absl::DataLossError("item")}};
    }

   private:
    const bool items_;
  };
  Broken step(false), item(true);
  EXPECT_EQ(MeasureStepCost(step, kKv, kModel).status(), absl::DataLossError("step"));
  EXPECT_EQ(MeasureStepCost(item, kKv, kModel).status(), absl::DataLossError("item"));
}

}  // namespace
}  // namespace quire

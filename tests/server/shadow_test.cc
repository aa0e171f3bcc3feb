#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/shadow/budget.h"
#include "server/shadow/savings.h"
#include "server/shadow/shadow_job.h"
#include "server/shadow/shadow_runner.h"
#include "server/shadow/shadowing_engine.h"
#include "tests/core/engine/recording_sink.h"
#include "tests/support/fake_clock.h"
#include "tests/support/fake_runner.h"

namespace quire::server {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

// ------------------------------------------------------------------------------- parts

TEST(DeviceBudgetTest, ComesInByTheMinuteAndIsOverdrawnByOneOnly) {
  absl::Time now = absl::FromUnixSeconds(1000);
  DeviceBudget budget(absl::Seconds(6), now);
  EXPECT_TRUE(budget.HasLeft(now));
  budget.Spend(absl::Seconds(12));
  EXPECT_FALSE(budget.HasLeft(now));
  EXPECT_FALSE(budget.HasLeft(now + absl::Seconds(60)));
  EXPECT_TRUE(budget.HasLeft(now + absl::Seconds(61)));
  // What nobody spends is not saved up beyond a minute's worth.
  now += absl::Hours(1);
  EXPECT_TRUE(budget.HasLeft(now));
  budget.Spend(absl::Seconds(6));
  EXPECT_FALSE(budget.HasLeft(now));
}

TEST(DeviceBudgetTest, NothingIsNothing) {
  const absl::Time now = absl::FromUnixSeconds(1000);
  DeviceBudget budget(absl::ZeroDuration(), now);
  EXPECT_FALSE(budget.HasLeft(now + absl::Hours(1)));
}

TEST(SavingsModelTest, CorrectsModelledTimesByWhatWasMeasured) {
  SavingsModel model(3.6);
  EXPECT_NEAR(model.UsdOf(absl::Seconds(10)), 0.01, 1e-12);
  DeviceTime device{.prefill = absl::Seconds(1),
                    .decode = absl::Seconds(1),
                    .dense_prefill = absl::Seconds(2),
                    .dense_decode = absl::Seconds(3)};
  DeviceTime corrected = device;
  model.Correct(AttentionMode::kRefined, corrected);
  EXPECT_EQ(corrected.dense_total(), absl::Seconds(5));
  model.Learn(absl::Seconds(5), absl::Seconds(10));  // the first counts fully
  corrected = device;
  model.Correct(AttentionMode::kRefined, corrected);
  EXPECT_NEAR(absl::ToDoubleSeconds(corrected.dense_prefill), 4, 1e-6);
  EXPECT_NEAR(absl::ToDoubleSeconds(corrected.dense_decode), 6, 1e-6);
  EXPECT_EQ(corrected.total(), absl::Seconds(2));
  // What read everything has saved nothing, whatever was measured of others.
  corrected = device;
  model.Correct(AttentionMode::kDense, corrected);
  EXPECT_EQ(corrected.dense_total(), absl::Seconds(5));
  DeviceTime same{.prefill = absl::Seconds(1), .dense_prefill = absl::Seconds(1)};
  model.Correct(AttentionMode::kAuto, same);
  EXPECT_EQ(same.dense_total(), absl::Seconds(1));
}

TEST(SavingsModelTest, OneMeasurementMovesItByFourTimesAtMost) {
  SavingsModel model(0);
  EXPECT_EQ(model.UsdOf(absl::Hours(1)), 0);
  model.Learn(absl::Seconds(1), absl::Seconds(100));
  DeviceTime device{.prefill = absl::Seconds(1), .dense_prefill = absl::Seconds(2)};
  model.Correct(AttentionMode::kRefined, device);
  EXPECT_NEAR(absl::ToDoubleSeconds(device.dense_prefill), 2 * std::exp(1.4), 1e-6);
}

TEST(CompareTest, MeanOfTheDifferencesAndCountOfOtherChoices) {
  ShadowResult result;
  Compare({{1, -1.0f, 1}, {2, -2.0f, 2}, {3, -3.0f, 9}, {4, -4.0f, 4}},
          {{1, -1.5f, 1}, {2, -1.0f, 7}, {3, -3.0f, 9}}, result);
  EXPECT_EQ(result.compared_tokens, 3);
  EXPECT_DOUBLE_EQ(result.logprob_abs_delta, 0.5);
  EXPECT_EQ(result.top1_mismatches, 1);
  ShadowResult none;
  Compare({}, {{1, -1.0f, 1}}, none);
  EXPECT_EQ(none.compared_tokens, 0);
  EXPECT_EQ(none.logprob_abs_delta, 0);
}

// ------------------------------------------------------------------------------ engine

class RecordingSavings final : public SavingsObserver {
 public:
  void OnSavings(const SavingsReport& report) override {
    Record([&] { savings_.push_back(report); });
  }
  void OnShadow(const ShadowResult& result) override {
    Record([&] { shadows_.push_back(result); });
  }
  void OnShadowSkipped(ShadowSkip reason) override {
    Record([&] { skips_.push_back(reason); });
  }

  std::vector<SavingsReport> WaitForSavings(size_t count) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return savings_.size() >= count; });
    return savings_;
  }
  std::vector<ShadowResult> shadows() const {
    std::lock_guard lock(mutex_);
    return shadows_;
  }
  std::vector<ShadowSkip> skips() const {
    std::lock_guard lock(mutex_);
    return skips_;
  }

 private:
  void Record(const std::function<void()>& add) {
    std::lock_guard lock(mutex_);
    add();
    changed_.notify_all();
  }
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<SavingsReport> savings_;
  std::vector<ShadowResult> shadows_;
  std::vector<ShadowSkip> skips_;
};

constexpr int32_t kSparseFrom = 200;

std::vector<TokenId> Tokens(int64_t count) {
  std::vector<TokenId> tokens;
  for (int64_t i = 0; i < count; ++i) tokens.push_back(static_cast<TokenId>(i % 97));
  return tokens;
}

AttentionOptions Refined() {
  return {.mode = AttentionMode::kRefined, .min_sparse_tokens = kSparseFrom};
}

EngineRequest Score(int64_t tokens, std::string call_id = "call") {
  return {.work = ScoreRequest{.tokens = Tokens(tokens), .attention = Refined()},
          .scheduling = {.call_id = std::move(call_id)}};
}

EngineRequest Generate(int64_t prompt, int32_t new_tokens) {
  return {.work = GenerateRequest{.prompt = Tokens(prompt),
                                  .max_new_tokens = new_tokens,
                                  .attention = Refined()},
          .scheduling = {.call_id = "call"}};
}

// An engine on which a step takes a millisecond for every thousand columns it reads, and
// whose model is less sure of every token while it reads sparsely.
class ShadowTest : public testing::Test {
 protected:
  ShadowTest() {
    model_.set_on_step([this](const StepInput& input) {
      int64_t columns = 0;
      for (const StepItem& item : input.items) {
        const auto rows = static_cast<int64_t>(item.tokens.size());
        columns += FakeAttention(item.attention, item.begin, rows).work.columns;
        dense_ = item.attention.mode == AttentionMode::kDense;
      }
      clock_.Advance(absl::Microseconds(columns));
    });
    model_.set_logprob([this](absl::Span<const TokenId>, TokenId target) {
      return FakeLogprob(target) - (dense_ ? 0.0f : 0.25f);
    });
  }

  void Start(ShadowOptions options = {.share = 1, .price_per_device_hour = 3600}) {
    const EngineOptions engine{.kv = kv_,
                               .model = {.vocab_size = 100, .max_positions = 1000},
                               .chunk_tokens = 128,
                               .max_running = 8,
                               .max_step = absl::ZeroDuration(),
                               .prefix_caching = PrefixCaching::kShared};
    engine_ = MakeShadowingEngine(
        Engine::Start(engine, model_.MakeRunner(), nullptr, clock_).value(), kv_, options,
        savings_, clock_);
  }

  std::shared_ptr<SinkRecord> Submit(EngineRequest request) {
    auto record = std::make_shared<SinkRecord>();
    EXPECT_TRUE(
        engine_->Submit(std::move(request), std::make_unique<RecordingSink>(record))
            .ok());
    return record;
  }

  // Of all items of the step.
  int64_t NumItems(AttentionMode mode) const {
    int64_t count = 0;
    for (const RecordedStep& step : model_.steps()) {
      for (const RecordedItem& item : step.items) count += item.attention.mode == mode;
    }
    return count;
  }

  KvGeometry kv_{.num_blocks = 500, .tokens_per_block = 4};
  FakeClock clock_;
  FakeModel model_{100, 4};
  std::atomic<bool> dense_ = false;
  RecordingSavings savings_;
  std::unique_ptr<Engine> engine_;
};

// Columns of the rows [0, rows).
absl::Duration TimeOf(AttentionMode mode, int64_t rows) {
  AttentionOptions attention = Refined();
  attention.mode = mode;
  return absl::Microseconds(FakeAttention(attention, 0, rows).work.columns);
}

TEST_F(ShadowTest, MeasuresWhatDenseAttentionTakesAndSays) {
  Start();
  const Finished finished = Submit(Score(400, "call-7"))->Wait();
  EXPECT_EQ(finished.device.total(), TimeOf(AttentionMode::kRefined, 399));
  const SavingsReport report = savings_.WaitForSavings(1)[0];
  const absl::Duration dense = TimeOf(AttentionMode::kDense, 399);
  EXPECT_EQ(report.call_id, "call-7");
  EXPECT_EQ(report.basis, SavingsBasis::kMeasured);
  EXPECT_EQ(report.own, TimeOf(AttentionMode::kRefined, 399));
  EXPECT_NEAR(absl::ToDoubleSeconds(report.dense), absl::ToDoubleSeconds(dense), 1e-6);
  EXPECT_NEAR(report.saved_usd, absl::ToDoubleSeconds(dense - report.own), 1e-6);
  ASSERT_EQ(savings_.shadows().size(), 1u);
  const ShadowResult result = savings_.shadows()[0];
  EXPECT_EQ(result.call_id, "call-7");
  EXPECT_EQ(result.mode, AttentionMode::kRefined);
  EXPECT_EQ(result.own, report.own);
  EXPECT_EQ(result.dense, dense);
  EXPECT_EQ(result.compared_tokens, 399);
  EXPECT_NEAR(result.logprob_abs_delta, 0.25, 1e-6);
  EXPECT_EQ(result.top1_mismatches, 0);
  EXPECT_THAT(savings_.skips(), IsEmpty());
}

TEST_F(ShadowTest, AnAnswerIsWhatItWasWhateverDenseAttentionWouldChoose) {
  // Dense attention would choose 5 everywhere.
  model_.set_next([this](absl::Span<const TokenId> tokens) {
    return dense_ ? 5 : (tokens.back() + 1) % 97;
  });
  Start();
  const auto record = Submit(Generate(300, 4));
  EXPECT_TRUE(record->Wait().status.ok());
  savings_.WaitForSavings(1);
  const std::vector<RecordedStep> steps = model_.steps();
  std::vector<TokenId> fed;
  for (const RecordedStep& step : steps) {
    for (const RecordedItem& item : step.items) {
      const bool shadow = item.attention.mode == AttentionMode::kDense;
      EXPECT_EQ(item.sample && shadow, false);
      if (shadow && item.begin >= 300) fed.push_back(item.tokens[0]);
    }
  }
  const TokenId last = Tokens(300).back();
  EXPECT_THAT(fed, ElementsAre(last + 1, last + 2, last + 3));
  EXPECT_EQ(savings_.shadows()[0].compared_tokens, 4);
}

TEST_F(ShadowTest, NobodyIsToldOfAlternativesThatNobodyAskedFor) {
  class TopSink final : public RequestSink {
   public:
    explicit TopSink(std::shared_ptr<SinkRecord> record) : record_(std::move(record)) {}
    void OnProgress(int64_t, int64_t) override {}
    void OnToken(const TokenScore& t) override {
      record_->Add(absl::StrCat("top ", t.top.size()));
    }
    void OnScores(std::vector<TokenScore>) override {}
    void OnImportance(std::vector<float>) override {}
    void OnFinished(const Finished& finished) override { record_->Finish(finished); }

   private:
    std::shared_ptr<SinkRecord> record_;
  };
  Start();
  for (const int32_t asked : {0, 3}) {
    auto record = std::make_shared<SinkRecord>();
    EngineRequest request = Generate(300, 2);
    std::get<GenerateRequest>(request.work).top_logprobs = asked;
    ASSERT_TRUE(
        engine_->Submit(std::move(request), std::make_unique<TopSink>(record)).ok());
    record->Wait();
    const std::string top = absl::StrCat("top ", asked);
    EXPECT_THAT(record->events(), ElementsAre(top, top));
  }
}

TEST_F(ShadowTest, WhatWasCachedIsNotMeasured) {
  Start();
  // In turn, so that the second finds the first's pages; neither's shadow leaves any.
  Submit(Generate(300, 1))->Wait();
  savings_.WaitForSavings(1);
  const Finished second = Submit(Generate(400, 1))->Wait();
  EXPECT_EQ(second.usage.cached_tokens, 300);
  const SavingsReport report = savings_.WaitForSavings(2)[1];
  EXPECT_EQ(report.own,
            TimeOf(AttentionMode::kRefined, 400) - TimeOf(AttentionMode::kRefined, 300));
  EXPECT_EQ(report.basis, SavingsBasis::kMeasured);
  const double dense = absl::ToDoubleSeconds(TimeOf(AttentionMode::kDense, 400) -
                                             TimeOf(AttentionMode::kDense, 300));
  EXPECT_NEAR(absl::ToDoubleSeconds(report.dense) / dense, 1, 0.05);
}

TEST_F(ShadowTest, WhoSharedStepsIsComputedAgainAsItWasToo) {
  Start();
  model_.Block();
  const auto first = Submit(Generate(8, 1));
  model_.WaitUntilBlocked();
  // Of other beginnings, so that neither finds the other's pages.
  std::vector<std::shared_ptr<SinkRecord>> records;
  for (const TokenId beginning : {98, 99}) {
    EngineRequest request = Generate(300, 3);
    std::get<GenerateRequest>(request.work).prompt[0] = beginning;
    records.push_back(Submit(std::move(request)));
  }
  model_.Release();
  for (const auto& record : records) EXPECT_FALSE(record->Wait().device.alone);
  savings_.WaitForSavings(3);
  ASSERT_EQ(savings_.shadows().size(), 2u);
  for (const ShadowResult& result : savings_.shadows()) {
    EXPECT_EQ(result.own, TimeOf(AttentionMode::kRefined, 302));
    EXPECT_EQ(result.dense, TimeOf(AttentionMode::kDense, 302));
  }
  EXPECT_THAT(savings_.skips(), IsEmpty());
}

TEST_F(ShadowTest, OnlyAShareIsMeasuredAndTheRestIsModelled) {
  Start({.share = 0});
  for (int i = 0; i < 5; ++i) Submit(Score(300))->Wait();
  for (const SavingsReport& report : savings_.WaitForSavings(5)) {
    EXPECT_EQ(report.basis, SavingsBasis::kModelled);
    EXPECT_EQ(report.saved_usd, 0);  // no price
  }
  EXPECT_THAT(savings_.shadows(), IsEmpty());
  EXPECT_EQ(NumItems(AttentionMode::kDense), 0);
}

TEST_F(ShadowTest, ChoosesAboutTheShareThatWasAskedFor) {
  Start({.share = 0.25, .budget = absl::Hours(1), .seed = 3});
  for (int i = 0; i < 100; ++i) {
    Submit(Score(210))->Wait();
    savings_.WaitForSavings(static_cast<size_t>(i) + 1);
  }
  EXPECT_NEAR(static_cast<double>(savings_.shadows().size()), 25, 13);
}

TEST_F(ShadowTest, DenseAndShortRequestsAreNotMeasured) {
  Start();
  EngineRequest dense = Score(300);
  std::get<ScoreRequest>(dense.work).attention.mode = AttentionMode::kDense;
  Submit(std::move(dense))->Wait();
  Submit(Score(150))->Wait();
  for (const SavingsReport& report : savings_.WaitForSavings(2)) {
    EXPECT_EQ(report.basis, SavingsBasis::kModelled);
    EXPECT_EQ(report.own, report.dense);
  }
  EXPECT_THAT(savings_.shadows(), IsEmpty());
}

TEST_F(ShadowTest, WithoutBudgetNothingIsMeasured) {
  Start({.share = 1, .budget = absl::ZeroDuration()});
  Submit(Score(300))->Wait();
  clock_.Advance(ShadowRunner::kPatience + absl::Seconds(1));
  EXPECT_EQ(savings_.WaitForSavings(1)[0].basis, SavingsBasis::kModelled);
  EXPECT_THAT(savings_.skips(), ElementsAre(ShadowSkip::kBudget));
}

TEST_F(ShadowTest, TheBudgetIsOverdrawnByOneRequestOnly) {
  Start({.share = 1, .budget = absl::Milliseconds(1)});
  Submit(Score(400))->Wait();
  savings_.WaitForSavings(1);
  Submit(Score(400))->Wait();
  clock_.Advance(ShadowRunner::kPatience + absl::Seconds(1));
  savings_.WaitForSavings(2);
  EXPECT_EQ(savings_.shadows().size(), 1u);
  EXPECT_THAT(savings_.skips(), ElementsAre(ShadowSkip::kBudget));
}

TEST_F(ShadowTest, OffUnderLoad) {
  Start();
  model_.set_on_step({});
  const auto busy = Submit(Generate(8, 990));  // too short to be measured
  model_.Block();
  model_.WaitUntilBlocked();
  model_.Release();
  const auto request = Submit(Score(300));
  request->Wait();
  model_.Block();
  model_.WaitUntilBlocked();
  EXPECT_FALSE(busy->finished());
  clock_.Advance(ShadowRunner::kPatience + absl::Seconds(1));
  savings_.WaitForSavings(1);
  EXPECT_THAT(savings_.skips(), ElementsAre(ShadowSkip::kBusy));
  model_.Release();
}

TEST_F(ShadowTest, TooManyThatWaitAreGivenUp) {
  Start({.share = 1, .budget = absl::ZeroDuration()});
  for (size_t i = 0; i < ShadowRunner::kMaxWaiting + 2; ++i) Submit(Score(300))->Wait();
  savings_.WaitForSavings(2);
  EXPECT_THAT(savings_.skips(), ElementsAre(ShadowSkip::kBusy, ShadowSkip::kBusy));
}

TEST_F(ShadowTest, WhatTakesHalfOfTheCacheIsNotMeasured) {
  kv_.num_blocks = 150;  // 600 tokens
  Start();
  Submit(Score(301))->Wait();
  EXPECT_EQ(savings_.WaitForSavings(1)[0].basis, SavingsBasis::kModelled);
  EXPECT_THAT(savings_.skips(), ElementsAre(ShadowSkip::kTooLarge));
}

TEST_F(ShadowTest, ASecondRunThatFailsIsNobodysProblem) {
  model_.set_fail_item([](const StepItem& item) {
    return item.attention.mode == AttentionMode::kDense ? absl::InternalError("broken")
                                                        : absl::OkStatus();
  });
  Start();
  EXPECT_TRUE(Submit(Score(300))->Wait().status.ok());
  EXPECT_EQ(savings_.WaitForSavings(1)[0].basis, SavingsBasis::kModelled);
  EXPECT_THAT(savings_.skips(), ElementsAre(ShadowSkip::kFailed));
}

TEST_F(ShadowTest, ErrorsAreInNoSavings) {
  model_.set_fail_item([](const StepItem&) { return absl::InternalError("broken"); });
  Start();
  EXPECT_FALSE(Submit(Score(300))->Wait().status.ok());
  model_.set_fail_item({});
  Submit(Score(150))->Wait();
  EXPECT_EQ(savings_.WaitForSavings(1).size(), 1u);
}

TEST_F(ShadowTest, ReceiptsAreCorrectedByWhatWasMeasured) {
  // The cost model knows nothing of this engine: dense columns cost what others do.
  Start();
  Submit(Score(400))->Wait();
  savings_.WaitForSavings(1);
  const Finished second = Submit(Score(401))->Wait();
  const double dense = absl::ToDoubleSeconds(TimeOf(AttentionMode::kDense, 400));
  EXPECT_NEAR(absl::ToDoubleSeconds(second.device.dense_total()) / dense, 1, 0.2);
}

// Whether the run is over by then or not, nothing hangs and each request is accounted
// for.
TEST_F(ShadowTest, GoesAwayInTheMiddleOfARun) {
  std::atomic<bool> in_shadow = false;
  model_.set_on_step([&](const StepInput& input) {
    if (input.items[0].attention.mode == AttentionMode::kDense) in_shadow = true;
  });
  Start();
  Submit(Score(900))->Wait();
  while (!in_shadow) std::this_thread::yield();
  engine_.reset();
  EXPECT_EQ(savings_.WaitForSavings(1).size(), 1u);
  EXPECT_EQ(savings_.shadows().size() + savings_.skips().size(), 1u);
}

}  // namespace
}  // namespace quire::server

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "prometheus/counter.h"
#include "prometheus/gauge.h"
#include "prometheus/histogram.h"
#include "prometheus/registry.h"
#include "server/page/history.h"
#include "server/page/progress_trace.h"
#include "server/page/series.h"

namespace quire::server {
namespace {

using nlohmann::json;
using testing::Contains;
using testing::ElementsAre;
using testing::Pair;
using testing::UnorderedElementsAre;

absl::Time At(double seconds) {
  return absl::UnixEpoch() + absl::Seconds(1'000'000) + absl::Seconds(seconds);
}
json Read(const History& history, int64_t step, double since = -1e6) {
  return json::parse(history.Json(step, At(since)));
}

// ------------------------------------------------------------------------------- history

TEST(PageHistoryTest, IsEmptyAtFirst) {
  EXPECT_EQ(History().Json(1, absl::UnixEpoch()), R"({"step":1,"times":[],"series":{}})");
}

TEST(PageHistoryTest, TellsSamplesInOrderAndWhatStoodStillOnce) {
  History history;
  history.Add(At(0), {{"grows", 1}, {"still", 7}});
  history.Add(At(1), {{"grows", 2.5}, {"still", 7}});
  EXPECT_EQ(history.Json(1, absl::UnixEpoch()),
            R"({"step":1,"times":[1e+06,1000001],"series":{"grows":[1,2.5],"still":7}})");
}

TEST(PageHistoryTest, TellsOnlyWhatCameAfter) {
  History history;
  for (int i = 0; i < 5; ++i) history.Add(At(i + 0.1234), {{"a", i}});
  const json all = Read(history, 1);
  ASSERT_EQ(all["times"].size(), 5u);
  // The very time that was told: nothing is told twice, nothing is lost.
  const json later = Read(history, 1, all["times"][2].get<double>() - 1'000'000);
  EXPECT_EQ(later["series"]["a"], json({3, 4}));
  EXPECT_EQ(Read(history, 1, 4.124)["times"].size(), 0u);
}

TEST(PageHistoryTest, ASeriesThatComesLaterOrGoesIsNotKnownMeanwhile) {
  History history;
  history.Add(At(0), {{"old", 1}});
  history.Add(At(1), {{"old", 1}, {"new", 5}});
  history.Add(At(2), {{"new", 6}});
  const json series = Read(history, 1)["series"];
  EXPECT_EQ(series["old"], json({1, 1, nullptr}));
  EXPECT_EQ(series["new"], json({nullptr, 5, 6}));
}

TEST(PageHistoryTest, KeepsTenMinutesTwoHoursAndADay) {
  History history;
  constexpr int kDay = 24 * 3600;
  for (int i = 0; i < kDay + 7200; ++i) history.Add(At(i), {{"a", i}});
  for (const auto& [step, samples] : {std::pair{1, 600}, {10, 720}, {60, 1440}}) {
    const json values = Read(history, step)["series"]["a"];
    ASSERT_EQ(values.size(), static_cast<size_t>(samples)) << step;
    EXPECT_EQ(values[samples - 1].get<int>() - values[samples - 2].get<int>(), step);
    EXPECT_GT(values[samples - 1].get<int>(), kDay + 7200 - step - 1);
    EXPECT_EQ(values[0].get<int>(),
              values[samples - 1].get<int>() - (samples - 1) * step);
  }
}

TEST(PageHistoryTest, SamplesALittleEarlyAreTaken) {
  History history;
  for (int i = 0; i < 40; ++i) history.Add(At(i + (i % 10 == 0 ? -0.1 : 0)), {{"a", i}});
  EXPECT_EQ(Read(history, 10)["series"]["a"], json({0, 10, 20, 30}));
}

TEST(PageHistoryTest, HasOnlySoManySeries) {
  History history;
  Sample sample;
  for (size_t i = 0; i < History::kMaxSeries + 10; ++i) {
    sample.emplace_back(absl::StrCat("s", i), i);
  }
  history.Add(At(0), sample);
  history.Add(At(1), sample);
  const json series = Read(history, 1)["series"];
  EXPECT_EQ(series.size(), History::kMaxSeries);
  EXPECT_FALSE(series.contains(absl::StrCat("s", History::kMaxSeries)));
}

TEST(PageHistoryTest, NamesAreEscaped) {
  History history;
  history.Add(At(0), {{"m{le=\"0.5\"}", 1}});
  EXPECT_EQ(Read(history, 1)["series"], (json{{"m{le=\"0.5\"}", 1}}));
}

TEST(PageHistoryTest, NumbersReadBackExactly) {
  const auto text = [](double value) {
    std::string out;
    AppendJsonNumber(value, out);
    return out;
  };
  EXPECT_EQ(text(0), "0");
  EXPECT_EQ(text(1234567), "1234567");
  EXPECT_EQ(text(0.1), "0.1");
  for (const double value : {1.0 / 3, 9007199254740993.0, 1e300, -2.5e-9}) {
    EXPECT_EQ(json::parse(text(value)).get<double>(), value);
  }
  EXPECT_EQ(text(std::numeric_limits<double>::infinity()), "null");
  EXPECT_EQ(text(std::nan("")), "null");
}

// -------------------------------------------------------------------------------- series

TEST(PageSeriesTest, SumsOverLabelsButTheOneThatIsToldApart) {
  prometheus::Registry registry;
  auto& flops =
      prometheus::BuildCounter().Name("quire_attention_flops_total").Register(registry);
  flops.Add({{"phase", "prefill"}, {"mode", "auto"}}).Increment(3);
  flops.Add({{"phase", "decode"}, {"mode", "dense"}}).Increment(4);
  auto& gpu =
      prometheus::BuildCounter().Name("quire_gpu_seconds_total").Register(registry);
  gpu.Add({{"phase", "prefill"}, {"mode", "auto"}}).Increment(1);
  gpu.Add({{"phase", "prefill"}, {"mode", "dense"}}).Increment(2);
  gpu.Add({{"phase", "decode"}, {"mode", "dense"}}).Increment(8);
  auto& other = prometheus::BuildCounter().Name("quire_other_total").Register(registry);
  other.Add({}).Increment();
  EXPECT_THAT(TakeSample({&registry}),
              UnorderedElementsAre(Pair("quire_attention_flops_total", 7),
                                   Pair("quire_gpu_seconds_total{phase=\"prefill\"}", 3),
                                   Pair("quire_gpu_seconds_total{phase=\"decode\"}", 8)));
}

TEST(PageSeriesTest, SharesOfMemoryAreNotAdded) {
  prometheus::Registry registry;
  auto& usage =
      prometheus::BuildGauge().Name("quire_kv_cache_usage_ratio").Register(registry);
  usage.Add({{"model", "a"}}).Set(0.25);
  usage.Add({{"model", "b"}}).Set(0.75);
  EXPECT_THAT(TakeSample({&registry}),
              ElementsAre(Pair("quire_kv_cache_usage_ratio", 0.75)));
}

TEST(PageSeriesTest, HistogramsAreTheirBucketsSumAndCount) {
  prometheus::Registry registry;
  auto& first = prometheus::BuildHistogram()
                    .Name("quire_time_to_first_token_seconds")
                    .Register(registry);
  const prometheus::Histogram::BucketBoundaries bounds = {0.5, 2};
  first.Add({{"method", "Generate"}}, bounds).Observe(0.25);
  first.Add({{"method", "Summarize"}}, bounds).Observe(1);
  first.Add({{"method", "Summarize"}}, bounds).Observe(4);
  const std::string name = "quire_time_to_first_token_seconds";
  EXPECT_THAT(TakeSample({&registry}),
              UnorderedElementsAre(Pair(name + "_bucket{le=\"0.5\"}", 1),
                                   Pair(name + "_bucket{le=\"2\"}", 2),
                                   Pair(name + "_bucket{le=\"+Inf\"}", 3),
                                   Pair(name + "_sum", 5.25), Pair(name + "_count", 3)));
}

TEST(PageSeriesTest, OfCallsOnlyTheirNumberByCode) {
  prometheus::Registry registry;
  auto& calls =
      prometheus::BuildHistogram().Name("quire_request_seconds").Register(registry);
  const prometheus::Histogram::BucketBoundaries bounds = {1};
  calls.Add({{"method", "Score"}, {"code", "OK"}}, bounds).Observe(0.5);
  calls.Add({{"method", "Generate"}, {"code", "OK"}}, bounds).Observe(0.5);
  calls.Add({{"method", "Score"}, {"code", "CANCELLED"}}, bounds).Observe(0.5);
  EXPECT_THAT(
      TakeSample({&registry}),
      UnorderedElementsAre(Pair("quire_request_seconds_count{code=\"OK\"}", 2),
                           Pair("quire_request_seconds_count{code=\"CANCELLED\"}", 1)));
}

// --------------------------------------------------------------------------------- trace

TEST(ProgressTraceTest, KeepsFewPointsAsTheyAre) {
  ProgressTrace trace;
  std::vector<TracePoint> points;
  for (int i = 1; i <= 100; ++i) {
    points.push_back({i * 0.5, TracePhase::kPrefill, 1, i, 100});
    trace.Add(points.back());
  }
  EXPECT_EQ(std::vector(trace.points().begin(), trace.points().end()), points);
}

TEST(ProgressTraceTest, ThinsManyEvenlyAndKeepsTheLast) {
  ProgressTrace trace;
  for (int i = 1; i <= 100'000; ++i) {
    trace.Add({static_cast<double>(i), TracePhase::kDecode, 1, i, 100'000});
    ASSERT_LE(trace.points().size(), ProgressTrace::kMaxPoints);
    ASSERT_EQ(trace.points().back().done_tokens, i);
  }
  const auto points = trace.points();
  EXPECT_GE(points.size(), ProgressTrace::kMaxPoints / 2);
  for (size_t i = 1; i < points.size(); ++i) {
    EXPECT_GT(points[i].seconds, points[i - 1].seconds);
    EXPECT_LT(points[i].seconds - points[i - 1].seconds, 2'100) << i;
  }
}

TEST(ProgressTraceTest, KeepsTheEndOfEachPhaseAndPass) {
  ProgressTrace trace;
  std::vector<TracePoint> ends;
  for (int pass = 1; pass <= 3; ++pass) {
    for (const TracePhase phase : {TracePhase::kPrefill, TracePhase::kDecode}) {
      for (int i = 1; i <= 20; ++i) {
        trace.Add({pass + i * 0.01, phase, pass, i, 20});
      }
      ends.push_back({pass + 0.2, phase, pass, 20, 20});
    }
  }
  for (const TracePoint& end : ends) EXPECT_THAT(trace.points(), Contains(end));
}

TEST(ProgressTraceTest, ManyPassesAreBoundedToo) {
  ProgressTrace trace;
  for (int pass = 1; pass <= 5'000; ++pass) {
    trace.Add({static_cast<double>(pass), TracePhase::kPrefill, pass, 1, 1});
  }
  EXPECT_LE(trace.points().size(), ProgressTrace::kMaxPoints);
  EXPECT_EQ(trace.points().back().pass, 5'000);
}

}  // namespace
}  // namespace quire::server

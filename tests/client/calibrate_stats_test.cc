#include "client/cli/calibrate_stats.h"

#include <gtest/gtest.h>

#include <cmath>

namespace quire::cli {
namespace {

Measurement Reading(double eps, int64_t tokens, int64_t agreed, double abs_delta) {
  return {.document = "d",
          .eps = eps,
          .tokens = tokens,
          .agreed = agreed,
          .abs_delta = abs_delta,
          .logprob = -2.1 * static_cast<double>(tokens),
          .dense_logprob = -2.0 * static_cast<double>(tokens),
          .columns = 25,
          .dense_columns = 100,
          .macs = 60,
          .dense_macs = 100,
          .seconds = 2,
          .dense_seconds = 3,
          .sparse = true,
          .audited_tokens = 4,
          .audited_error = 0.02,
          .max_audited_error = 0.05};
}

EpsSummary Summary(double eps, double agreement, double drift, double saved = 0.5) {
  EpsSummary summary;
  summary.eps = eps;
  summary.agreement = {agreement + 0.005, agreement, agreement + 0.01};
  summary.drift = {drift - 0.01, drift - 0.02, drift};
  summary.saved = saved;
  summary.max_audited_error = eps;
  return summary;
}

TEST(SummariseTest, AddsUpTokensNotDocuments) {
  const std::vector<Measurement> readings = {Reading(0.04, 1000, 990, 20),
                                             Reading(0.04, 9000, 8100, 980)};
  const EpsSummary s = Summarise(readings, {});
  EXPECT_EQ(s.eps, 0.04);
  EXPECT_EQ(s.documents, 2);
  EXPECT_EQ(s.tokens, 10'000);
  EXPECT_DOUBLE_EQ(s.agreement.value, 0.909);
  EXPECT_DOUBLE_EQ(s.drift.value, 0.1);
  EXPECT_NEAR(s.perplexity_ratio, std::exp(0.1), 1e-9);
  EXPECT_DOUBLE_EQ(s.density, 0.25);
  EXPECT_DOUBLE_EQ(s.saved, 0.4);
  EXPECT_DOUBLE_EQ(s.speedup, 1.5);
  EXPECT_DOUBLE_EQ(s.audited_error, 0.02);
  EXPECT_DOUBLE_EQ(s.max_audited_error, 0.05);
}

TEST(SummariseTest, ADocumentThatHadToWaitDoesNotMakeTheRestFaster) {
  std::vector<Measurement> readings(5, Reading(0.04, 100, 99, 1));
  readings[2].dense_seconds = 300;
  EXPECT_DOUBLE_EQ(Summarise(readings, {}).speedup, 1.5);
}

TEST(SummariseTest, OneDocumentHasNoSpread) {
  const std::vector<Measurement> readings = {Reading(0.04, 1000, 990, 20)};
  const EpsSummary s = Summarise(readings, {});
  EXPECT_EQ(s.agreement.low, 0.99);
  EXPECT_EQ(s.agreement.high, 0.99);
  EXPECT_EQ(s.drift.high, 0.02);
}

// Of twenty documents one disagrees: it is drawn no time, once, twice ... by Poisson's
// law with mean 1, so at most twice in 92 % of the draws and at most three times in 98 %.
TEST(SummariseTest, BoundsAreThoseOfDrawnDocuments) {
  std::vector<Measurement> readings(19, Reading(0.04, 100, 100, 0));
  readings.push_back(Reading(0.04, 100, 0, 100));
  const EpsSummary s = Summarise(readings, {.samples = 4000, .confidence = 0.95});
  EXPECT_DOUBLE_EQ(s.agreement.value, 0.95);
  EXPECT_DOUBLE_EQ(s.agreement.low, 0.85);
  EXPECT_DOUBLE_EQ(s.agreement.high, 1.0);
  EXPECT_DOUBLE_EQ(s.drift.high, 0.15);
  EXPECT_DOUBLE_EQ(
      Summarise(readings, {.samples = 4000, .confidence = 0.8}).agreement.low, 0.9);
}

TEST(SummariseTest, TheSameSeedGivesTheSameBounds) {
  std::vector<Measurement> readings;
  for (int i = 0; i < 30; ++i) readings.push_back(Reading(0.04, 100, 60 + i, i));
  const EpsSummary one = Summarise(readings, {.samples = 50, .seed = 7});
  const EpsSummary same = Summarise(readings, {.samples = 50, .seed = 7});
  const EpsSummary other = Summarise(readings, {.samples = 50, .seed = 8});
  EXPECT_EQ(one.drift.high, same.drift.high);
  EXPECT_EQ(one.agreement.low, same.agreement.low);
  EXPECT_NE(one.drift.high, other.drift.high);
}

TEST(HoldsTest, TheBoundsCountAndNotTheValues) {
  EXPECT_TRUE(Holds(Summary(0.04, 0.98, 0.02), {.agreement = 0.98}));
  EXPECT_FALSE(Holds(Summary(0.04, 0.98, 0.02), {.agreement = 0.981}));
  EXPECT_TRUE(Holds(Summary(0.04, 0.98, 0.02), {.max_drift = 0.02}));
  EXPECT_FALSE(Holds(Summary(0.04, 0.98, 0.02), {.max_drift = 0.019}));
  EXPECT_FALSE(Holds(Summary(0.04, 0.98, 0.02), {.agreement = 0.9, .max_drift = 0.01}));
}

const std::vector<EpsSummary>& Curve() {
  static const auto& curve = *new std::vector<EpsSummary>{
      Summary(0.02, 0.99, 0.01, 0.2), Summary(0.04, 0.98, 0.02, 0.4),
      Summary(0.08, 0.96, 0.04, 0.6), Summary(0.16, 0.92, 0.08, 0.7)};
  return curve;
}

TEST(RecommendTest, TheLargestThatHolds) {
  const Recommendation result = Recommend(Curve(), {.agreement = 0.97});
  ASSERT_TRUE(result.eps.has_value());
  EXPECT_EQ(*result.eps, 0.04);
  EXPECT_DOUBLE_EQ(result.max_error, 0.05);  // 1.25 * 0.04
}

TEST(RecommendTest, NoneHoldsMeansDense) {
  EXPECT_FALSE(Recommend(Curve(), {.agreement = 0.995}).eps.has_value());
  EXPECT_EQ(Recommend(Curve(), {.agreement = 0.995}).max_error, 1);
  EXPECT_FALSE(Recommend({}, {.agreement = 0.5}).eps.has_value());
}

TEST(RecommendTest, AStrayOneAboveAFailureIsNotTrusted) {
  std::vector<EpsSummary> curve = Curve();
  curve[1].agreement.low = 0.95;
  EXPECT_EQ(*Recommend(curve, {.agreement = 0.955}).eps, 0.02);
}

TEST(RecommendTest, WhatSavesNothingIsNotWorthIt) {
  std::vector<EpsSummary> curve = Curve();
  curve[0].saved = -0.1;
  EXPECT_FALSE(Recommend(curve, {.agreement = 0.985}).eps.has_value());
}

TEST(RecommendTest, MaxErrorIsRoundedUpAndAtMostOne) {
  std::vector<EpsSummary> curve = {Summary(0.04, 0.98, 0.02)};
  for (const auto& [seen, recommended] : std::vector<std::pair<double, double>>{
           {0.0645, 0.081}, {0.08, 0.1}, {0.3124, 0.4}, {0.9, 1}, {0, 1}}) {
    curve[0].max_audited_error = seen;
    EXPECT_NEAR(Recommend(curve, {.agreement = 0.9}).max_error, recommended, 1e-9)
        << seen;
  }
}

TEST(NextEpsTest, BetweenTheLastThatHoldsAndTheNext) {
  EXPECT_DOUBLE_EQ(*NextEps(Curve(), {.agreement = 0.97}), 0.0566);
  EXPECT_DOUBLE_EQ(*NextEps(Curve(), {.agreement = 0.985}), 0.0283);
}

TEST(NextEpsTest, BelowTheSmallestWhileThereIsSomethingToSave) {
  EXPECT_DOUBLE_EQ(*NextEps(Curve(), {.agreement = 0.995}), 0.01);
  std::vector<EpsSummary> curve = Curve();
  curve[0].saved = 0;
  EXPECT_FALSE(NextEps(curve, {.agreement = 0.995}).has_value());
  curve[0].saved = 0.1;
  curve[0].eps = 0.009;
  EXPECT_FALSE(NextEps(curve, {.agreement = 0.995}).has_value());
}

TEST(NextEpsTest, AboveTheLargestIfThatHolds) {
  EXPECT_DOUBLE_EQ(*NextEps(Curve(), {.agreement = 0.9}), 0.32);
  const std::vector<EpsSummary> curve = {Summary(0.6, 0.99, 0.01)};
  EXPECT_FALSE(NextEps(curve, {.agreement = 0.9}).has_value());
}

TEST(NextEpsTest, NothingWithinATenth) {
  const std::vector<EpsSummary> curve = {Summary(0.040, 0.99, 0.01),
                                         Summary(0.043, 0.95, 0.01)};
  EXPECT_FALSE(NextEps(curve, {.agreement = 0.98}).has_value());
  EXPECT_FALSE(NextEps({}, {.agreement = 0.98}).has_value());
}

}  // namespace
}  // namespace quire::cli

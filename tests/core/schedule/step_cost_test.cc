#include "core/schedule/step_cost.h"

#include <cmath>
#include <limits>

#include "gtest/gtest.h"
#include "tests/core/schedule/dice.h"

namespace quire {
namespace {

constexpr int64_t kMax = std::numeric_limits<int64_t>::max();

TEST(FeaturesOfTest, PromptChunkSeesItselfAndWhatIsBefore) {
  EXPECT_EQ(FeaturesOf({.begin = 10, .rows = 3}),
            (StepFeatures{
                .steps = 1, .rows = 3, .sequences = 1, .prefill_columns = 11 + 12 + 13}));
}

TEST(FeaturesOfTest, SingleRowIsADecodeEvenIfItIsAPrompts) {
  EXPECT_EQ(
      FeaturesOf({.begin = 0, .rows = 1, .samples = true}),
      (StepFeatures{
          .steps = 1, .rows = 1, .sequences = 1, .sampled = 1, .decode_columns = 1}));
}

TEST(FeaturesOfTest, RowsFromSparseFromOnAreSparse) {
  // The rows see 6, 7, 8, 9 tokens.
  EXPECT_EQ(FeaturesOf({.begin = 5, .rows = 4, .samples = true, .sparse_from = 8}),
            (StepFeatures{.steps = 1,
                          .rows = 4,
                          .sequences = 1,
                          .sampled = 1,
                          .prefill_columns = 6 + 7,
                          .sparse_rows = 2,
                          .scanned_columns = 8 + 9}));
  EXPECT_EQ(FeaturesOf({.begin = 7, .rows = 1, .sparse_from = 8}),
            (StepFeatures{.steps = 1, .rows = 1, .sequences = 1, .decode_columns = 7}));
  // A sparse decode counts a quarter of what it sees beyond the dense part.
  EXPECT_EQ(FeaturesOf({.begin = 106, .rows = 1, .sparse_from = 8}).decode_columns, 32);
  EXPECT_EQ(FeaturesOf({.begin = 0, .rows = 2, .sparse_from = 0}).sparse_rows, 2);
}

TEST(FeaturesOfTest, NoRowsCostNothing) {
  EXPECT_EQ(FeaturesOf({.begin = 5, .rows = 0, .samples = true}), StepFeatures{});
}

TEST(FeaturesOfTest, AgreesWithRowByRow) {
  Dice dice(1);
  for (int i = 0; i < 1000; ++i) {
    const RowRange range{.begin = dice.Below(50),
                         .rows = 2 + dice.Below(50),
                         .sparse_from = dice.OneIn(3) ? kNeverSparse : dice.Below(120)};
    StepFeatures want{.steps = 1, .rows = range.rows, .sequences = 1};
    for (int64_t p = range.begin; p < range.begin + range.rows; ++p) {
      const bool sparse = p + 1 >= range.sparse_from;
      (sparse ? want.scanned_columns : want.prefill_columns) += p + 1;
      want.sparse_rows += sparse ? 1 : 0;
    }
    ASSERT_EQ(FeaturesOf(range), want);
  }
}

TEST(StepFeaturesTest, PartsOfAStepAreOneStep) {
  StepFeatures step = FeaturesOf({.begin = 3, .rows = 1, .samples = true});
  step += FeaturesOf({.begin = 0, .rows = 2});
  EXPECT_EQ(step, (StepFeatures{.steps = 1,
                                .rows = 3,
                                .sequences = 2,
                                .sampled = 1,
                                .prefill_columns = 3,
                                .decode_columns = 4}));
}

TEST(StepCostTest, IsTheSumOfItsPartsRoundedUp) {
  const StepCost cost{.step_ps = 1,
                      .row_ps = 10,
                      .sequence_ps = 100,
                      .sample_ps = 1000,
                      .prefill_column_ps = 10'000,
                      .decode_column_ps = 100'000,
                      .sparse_row_ps = 1'000'000,
                      .scanned_column_ps = 10'000'000};
  const StepFeatures features{.steps = 1,
                              .rows = 2,
                              .sequences = 3,
                              .sampled = 4,
                              .prefill_columns = 5,
                              .decode_columns = 6,
                              .sparse_rows = 7,
                              .scanned_columns = 8};
  EXPECT_EQ(cost.Nanoseconds(features), 87'655);  // 87,654,321 ps
  EXPECT_EQ(StepCost{.step_ps = 3000}.Nanoseconds(features), 3);
  EXPECT_EQ(StepCost{}.Nanoseconds(features), 0);
}

TEST(StepCostTest, MillionTokenPromptsDoNotOverflow) {
  const StepCost cost{.prefill_column_ps = 1'000'000};
  // 10^6 * (10^6 + 1) / 2 columns of a microsecond.
  EXPECT_EQ(cost.Nanoseconds(FeaturesOf({.rows = 1'000'000})), 500'000'500'000'000);
  const StepFeatures huge = FeaturesOf({.begin = 5, .rows = kMax - 9});
  EXPECT_EQ(huge.prefill_columns, kMax);
  EXPECT_EQ(cost.Nanoseconds(huge), kMax / 1000 + 1);
}

TEST(RowsWithinTest, FillsTheLimitExactly) {
  const StepCost cost{.step_ps = 5000, .row_ps = 2000};
  EXPECT_EQ(RowsWithin(cost, {}, {.rows = 10}, 4), 0);
  EXPECT_EQ(RowsWithin(cost, {}, {.rows = 10}, 7), 1);
  EXPECT_EQ(RowsWithin(cost, {}, {.rows = 10}, 8), 1);
  EXPECT_EQ(RowsWithin(cost, {}, {.rows = 10}, 9), 2);
  EXPECT_EQ(RowsWithin(cost, {}, {.rows = 10}, 24), 9);
  EXPECT_EQ(RowsWithin(cost, {}, {.rows = 10}, 25), 10);
  EXPECT_EQ(RowsWithin(cost, {}, {.rows = 10}, kMax), 10);
  EXPECT_EQ(RowsWithin(cost, {}, {.rows = 0}, kMax), 0);
}

TEST(RowsWithinTest, CountsWhatTheStepAlreadyHas) {
  const StepCost cost{.step_ps = 5000, .row_ps = 2000};
  const StepFeatures step = FeaturesOf({.rows = 4});  // 13 ns
  EXPECT_EQ(RowsWithin(cost, step, {.rows = 10}, 12), 0);
  EXPECT_EQ(RowsWithin(cost, step, {.rows = 10}, 19), 3);
}

TEST(RowsWithinTest, SamplingIsPaidWithTheLastRowOnly) {
  const StepCost cost{.row_ps = 1000, .sample_ps = 5000};
  EXPECT_EQ(RowsWithin(cost, {}, {.rows = 10, .samples = true}, 10), 9);
  EXPECT_EQ(RowsWithin(cost, {}, {.rows = 10, .samples = true}, 15), 10);
}

TEST(RowsWithinTest, TwoRowsMayFitWhereOneDoesNot) {
  const StepCost cost{.row_ps = 1000, .decode_column_ps = 50'000};
  EXPECT_EQ(RowsWithin(cost, {}, {.begin = 9, .rows = 10}, 4), 4);
  EXPECT_EQ(RowsWithin(cost, {}, {.begin = 9, .rows = 10}, 1), 0);
}

TEST(RowsWithinTest, AgreesWithTrying) {
  Dice dice(1);
  for (int i = 0; i < 2000; ++i) {
    const auto price = [&] { return dice.Below(5) * 700; };
    const StepCost cost{price(), price(), price(), price(),
                        price(), price(), price(), price()};
    const RowRange rows{.begin = dice.Below(30),
                        .rows = dice.Below(40),
                        .samples = dice.OneIn(2),
                        .sparse_from = dice.OneIn(2) ? kNeverSparse : 25};
    const StepFeatures step = FeaturesOf({.begin = 5, .rows = dice.Below(3)});
    const int64_t limit_ns = dice.Below(3000);
    int64_t want = 0;
    for (int64_t count = 1; count <= rows.rows; ++count) {
      RowRange some = rows;
      some.rows = count;
      some.samples = rows.samples && count == rows.rows;
      StepFeatures whole = step;
      whole += FeaturesOf(some);
      if (cost.Nanoseconds(whole) <= limit_ns) want = count;
    }
    ASSERT_EQ(RowsWithin(cost, step, rows, limit_ns), want) << i;
  }
}

TEST(StepCostFitTest, AnExactPriorStaysAsItIs) {
  const StepCost prior{.step_ps = 2'000'000, .row_ps = 3000};
  StepCostFit fit(prior, 0.5);
  const StepFeatures features = FeaturesOf({.rows = 100});
  for (int i = 0; i < 10; ++i) fit.Add(features, prior.Nanoseconds(features));
  EXPECT_EQ(fit.cost(), prior);
  EXPECT_EQ(fit.error(), 0);
}

TEST(StepCostFitTest, AStepMovesPricesByTheirShares) {
  StepCostFit fit({.step_ps = 750'000, .row_ps = 2500, .sample_ps = 7}, 0.5);
  // Predicted: 750 ns + 100 * 2.5 ns. Measured: e^0.5 of it.
  fit.Add({.steps = 1, .rows = 100}, 1649);
  EXPECT_NEAR(fit.error(), 0.5, 1e-3);
  EXPECT_NEAR(fit.cost().step_ps, 750'000 * std::exp(0.5 * 0.75 * 0.5), 200);
  EXPECT_NEAR(fit.cost().row_ps, 2500 * std::exp(0.5 * 0.25 * 0.5), 2);
  EXPECT_EQ(fit.cost().sample_ps, 7);  // not in the step
}

TEST(StepCostFitTest, WhatIsWrongOfAMixedStepIsPutDownToItsPrompts) {
  const StepCost prior{.step_ps = 1000,
                       .row_ps = 1000,
                       .sequence_ps = 1000,
                       .prefill_column_ps = 1000,
                       .decode_column_ps = 1000};
  StepCostFit fit(prior, 0.5);
  StepFeatures step = FeaturesOf({.begin = 10, .rows = 1});
  step += FeaturesOf({.rows = 5});
  fit.Add(step, 1'000'000);
  EXPECT_EQ(fit.cost().step_ps, prior.step_ps);
  EXPECT_EQ(fit.cost().sequence_ps, prior.sequence_ps);
  EXPECT_EQ(fit.cost().decode_column_ps, prior.decode_column_ps);
  EXPECT_GT(fit.cost().row_ps, prior.row_ps);
  EXPECT_GT(fit.cost().prefill_column_ps, prior.prefill_column_ps);
}

TEST(StepCostFitTest, OneStepMovesAPriceByAFactorOfTwoAtMost) {
  StepCostFit fit({.row_ps = 1000}, 1.0);
  fit.Add({.steps = 1, .rows = 1000}, 1'000'000'000);
  EXPECT_EQ(fit.cost().row_ps, 2000);
  fit.Add({.steps = 1, .rows = 1000}, 1);
  EXPECT_EQ(fit.cost().row_ps, 1000);
}

TEST(StepCostFitTest, TimesAndStepsOfNothingAreIgnored) {
  const StepCost prior{.row_ps = 1000};
  StepCostFit fit(prior, 1.0);
  fit.Add({.steps = 1, .rows = 10}, 0);
  fit.Add({.steps = 1, .rows = 10}, -5);
  fit.Add({.steps = 1}, 100);  // predicted: nothing
  EXPECT_EQ(fit.cost(), prior);
  EXPECT_EQ(fit.error(), 0);
}

TEST(StepCostFitTest, PricesStayPositiveAndBounded) {
  StepCostFit fit({.step_ps = 1, .row_ps = 1}, 1.0);
  const StepFeatures features = FeaturesOf({.rows = 1000});
  for (int i = 0; i < 200; ++i) fit.Add(features, 1);
  EXPECT_GE(fit.cost().row_ps, 1);
  for (int i = 0; i < 500; ++i) fit.Add({.steps = 1, .rows = 1}, kMax);
  EXPECT_LE(fit.cost().row_ps, int64_t{1'000'000'000'000'000});
}

StepFeatures RandomStep(Dice& dice) {
  StepFeatures step;
  for (int64_t i = dice.Below(9); i > 0; --i) {
    step += FeaturesOf({.begin = dice.Below(3000), .rows = 1, .samples = true});
  }
  if (step.rows == 0 || dice.OneIn(2)) {
    step += FeaturesOf({.begin = dice.Below(6000),
                        .rows = 2 + dice.Below(500),
                        .samples = dice.OneIn(4),
                        .sparse_from = dice.OneIn(2) ? kNeverSparse : 2048});
  }
  return step;
}

// A prior that is wrong by up to a factor of 8 in each price.
TEST(StepCostFitTest, LearnsTheCostOfMixedSteps) {
  const StepCost truth{.step_ps = 3'000'000'000,
                       .row_ps = 40'000'000,
                       .sequence_ps = 20'000'000,
                       .sample_ps = 100'000'000,
                       .prefill_column_ps = 9000,
                       .decode_column_ps = 30'000,
                       .sparse_row_ps = 8'000'000,
                       .scanned_column_ps = 3000};
  StepCostFit fit({.step_ps = 24'000'000'000,
                   .row_ps = 8'000'000,
                   .sequence_ps = 60'000'000,
                   .sample_ps = 20'000'000,
                   .prefill_column_ps = 2000,
                   .decode_column_ps = 90'000,
                   .sparse_row_ps = 1'000'000,
                   .scanned_column_ps = 9000},
                  0.3);
  Dice dice(7);
  for (int i = 0; i < 3000; ++i) {
    const StepFeatures step = RandomStep(dice);
    const double noise = 0.95 + 0.1 * (dice.Below(1000)) / 1000.0;
    fit.Add(step, std::llround(truth.Nanoseconds(step) * noise));
  }
  EXPECT_LT(fit.error(), 0.06);
  EXPECT_GT(fit.error(), 0.005);  // the noise
  for (int i = 0; i < 200; ++i) {
    const StepFeatures step = RandomStep(dice);
    const double ratio = 1.0 * fit.cost().Nanoseconds(step) / truth.Nanoseconds(step);
    ASSERT_NEAR(ratio, 1, 0.25);
  }
}

}  // namespace
}  // namespace quire

#include "core/engine/step_time.h"

#include "gtest/gtest.h"

namespace quire {
namespace {

// A step 1,000 ns, a row 100, a dense column 10, a sparse row 5, a scanned column 1.
constexpr StepCost kCost = {.step_ps = 1'000'000,
                            .row_ps = 100'000,
                            .prefill_column_ps = 10'000,
                            .sparse_row_ps = 5'000,
                            .scanned_column_ps = 1'000};

TEST(DivideStepTest, OneItemTakesItAll) {
  const auto times = DivideStep(kCost, {{.begin = 0, .rows = 4}}, absl::Seconds(2));
  ASSERT_EQ(times.size(), 1u);
  EXPECT_EQ(times[0].own, absl::Seconds(2));
  EXPECT_EQ(times[0].dense, absl::Seconds(2));
}

TEST(DivideStepTest, ByExpectedCostAndTheStepInEqualParts) {
  // 500 + 200 + 10 (1 + 2) = 730, and 500 + 200 + 10 (9 + 10) = 890.
  const auto times = DivideStep(kCost, {{.begin = 0, .rows = 2}, {.begin = 8, .rows = 2}},
                                absl::Seconds(162));
  ASSERT_EQ(times.size(), 2u);
  EXPECT_NEAR(absl::ToDoubleSeconds(times[0].own), 73, 1e-6);
  EXPECT_NEAR(absl::ToDoubleSeconds(times[1].own), 89, 1e-6);
}

TEST(DivideStepTest, SparseRowsWouldHaveTakenWhatDenseOnesTake) {
  // Own: 1000 + 200 + 2 * 5 + (9 + 10) = 1229; dense: 1000 + 200 + 190 = 1390.
  const auto times =
      DivideStep(kCost, {{.begin = 8, .rows = 2, .sparse_from = 4}}, absl::Seconds(1229));
  EXPECT_NEAR(absl::ToDoubleSeconds(times[0].own), 1229, 1e-6);
  EXPECT_NEAR(absl::ToDoubleSeconds(times[0].dense), 1390, 1e-6);
}

TEST(DivideStepTest, RowsBeforeTheMeasuredOnesAreLeftOut) {
  // All: 1000 + 400 + 10 (1 + 2 + 3 + 4) = 1500; from row 2 on: 500 + 200 + 70.
  const auto times = DivideStep(kCost, {{.begin = 0, .rows = 4}}, absl::Seconds(1500), 2);
  EXPECT_NEAR(absl::ToDoubleSeconds(times[0].own), 770, 1e-6);
  const auto none = DivideStep(kCost, {{.begin = 0, .rows = 4}}, absl::Seconds(1500), 9);
  EXPECT_EQ(none[0].own, absl::ZeroDuration());
}

TEST(DivideStepTest, WithoutPricesInEqualParts) {
  const auto times = DivideStep({}, {{.begin = 0, .rows = 4}, {.begin = 9, .rows = 1}},
                                absl::Seconds(2));
  EXPECT_EQ(times[0].own, absl::Seconds(1));
  EXPECT_EQ(times[1].dense, absl::Seconds(1));
}

}  // namespace
}  // namespace quire

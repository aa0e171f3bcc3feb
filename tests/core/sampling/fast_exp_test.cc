#include "core/sampling/fast_exp.h"

#include <cmath>
#include <limits>

#include "gtest/gtest.h"

namespace quire {
namespace {

TEST(FastExpTest, AgreesWithStdExp) {
  for (double x = 0; x > -700; x -= 0.0137) {
    ASSERT_NEAR(FastExp(x) / std::exp(x), 1.0, 1e-15) << x;
  }
  for (double x = 0; x > -1; x -= 1.7e-5) {
    ASSERT_NEAR(FastExp(x) / std::exp(x), 1.0, 1e-15) << x;
  }
}

TEST(FastExpTest, Edges) {
  EXPECT_EQ(FastExp(0.0), 1.0);
  EXPECT_EQ(FastExp(-0.0), 1.0);
  EXPECT_EQ(FastExp(-700.001), 0.0);
  EXPECT_EQ(FastExp(-1e300), 0.0);
  EXPECT_EQ(FastExp(-std::numeric_limits<double>::infinity()), 0.0);
  EXPECT_EQ(FastExp(std::numeric_limits<double>::quiet_NaN()), 0.0);
}

}  // namespace
}  // namespace quire

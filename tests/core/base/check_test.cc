#include "core/base/check.h"

#include "core/base/status_macros.h"
#include "gtest/gtest.h"

namespace quire {
namespace {

TEST(CheckDeathTest, PrintsTheConditionAndAborts) {
  QUIRE_CHECK(1 + 1 == 2);
  EXPECT_DEATH(QUIRE_CHECK(1 + 1 == 3), "check failed: 1 \\+ 1 == 3");
}

absl::StatusOr<int> Half(int value) {
  if (value % 2 != 0) return absl::InvalidArgumentError("odd");
  return value / 2;
}

absl::StatusOr<int> Quarter(int value) {
  QUIRE_ASSIGN_OR_RETURN(const int half, Half(value));
  QUIRE_RETURN_IF_ERROR(Half(half).status());
  return half / 2;
}

TEST(StatusMacrosTest, ReturnTheFirstErrorOrGoOn) {
  EXPECT_EQ(Quarter(8).value(), 2);
  EXPECT_EQ(Quarter(6).status(), absl::InvalidArgumentError("odd"));
  EXPECT_EQ(Quarter(3).status(), absl::InvalidArgumentError("odd"));
}

}  // namespace
}  // namespace quire

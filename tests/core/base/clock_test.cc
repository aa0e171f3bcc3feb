#include "core/base/clock.h"

#include "gtest/gtest.h"
#include "tests/support/fake_clock.h"

namespace quire {
namespace {

TEST(ClockTest, SystemClockMovesForward) {
  const absl::Time before = SystemClock().Now();
  EXPECT_GT(before, absl::FromUnixSeconds(1'600'000'000));
  EXPECT_LE(before, SystemClock().Now());
}

TEST(ClockTest, FakeClockMovesOnlyWhenTold) {
  FakeClock clock(absl::FromUnixSeconds(5));
  EXPECT_EQ(clock.Now(), absl::FromUnixSeconds(5));
  clock.Advance(absl::Milliseconds(250));
  EXPECT_EQ(clock.Now(), absl::FromUnixMillis(5250));
}

}  // namespace
}  // namespace quire

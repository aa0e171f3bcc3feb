#include "client/backoff.h"

#include <gtest/gtest.h>

#include "client/error_details.h"
#include "tests/client/fake_server.h"

namespace quire::client {
namespace {

constexpr absl::Duration kForever = absl::InfiniteDuration();

RetryPolicy NoJitter() {
  RetryPolicy policy;
  policy.jitter = 0;
  return policy;
}

double Middle() { return 0.5; }

absl::Status Busy(absl::Duration delay) {
  return ToAbslStatus(testing::ErrorWithRetryDelay(grpc::StatusCode::RESOURCE_EXHAUSTED,
                                                   "waiting room full", delay),
                      "");
}

TEST(BackoffTest, WaitsDoubleUntilTheAttemptsAreUsedUp) {
  Backoff backoff(NoJitter(), Middle);
  const absl::Status error = absl::UnavailableError("down");
  EXPECT_EQ(backoff.NextWait(error, kForever), absl::Milliseconds(200));
  EXPECT_EQ(backoff.NextWait(error, kForever), absl::Milliseconds(400));
  EXPECT_EQ(backoff.NextWait(error, kForever), absl::Milliseconds(800));
  EXPECT_EQ(backoff.NextWait(error, kForever), std::nullopt);
}

TEST(BackoffTest, NeverPassesTheMaximum) {
  RetryPolicy policy = NoJitter();
  policy.max_attempts = 100;
  policy.max_backoff = absl::Milliseconds(500);
  Backoff backoff(policy, Middle);
  const absl::Status error = absl::UnavailableError("down");
  backoff.NextWait(error, kForever);
  backoff.NextWait(error, kForever);
  EXPECT_EQ(backoff.NextWait(error, kForever), absl::Milliseconds(500));
  EXPECT_EQ(backoff.NextWait(error, kForever), absl::Milliseconds(500));
}

TEST(BackoffTest, JitterIsAShareOfTheBackoffBothWays) {
  const absl::Status error = absl::UnavailableError("down");
  Backoff low(RetryPolicy(), [] { return 0.0; });
  EXPECT_EQ(low.NextWait(error, kForever), absl::Milliseconds(160));
  Backoff high(RetryPolicy(), [] { return 0.75; });
  EXPECT_EQ(high.NextWait(error, kForever), absl::Milliseconds(220));
}

TEST(BackoffTest, ServersDelayIsAddedTo) {
  Backoff backoff(NoJitter(), Middle);
  EXPECT_EQ(backoff.NextWait(Busy(absl::Seconds(3)), kForever), absl::Milliseconds(3200));
}

TEST(BackoffTest, ServersDelayBeyondTheLimitIsNotWaitedFor) {
  Backoff backoff(NoJitter(), Middle);
  EXPECT_EQ(backoff.NextWait(Busy(absl::Seconds(61)), kForever), std::nullopt);
}

TEST(BackoffTest, ExhaustedWithoutDelayIsFinal) {
  Backoff backoff(NoJitter(), Middle);
  EXPECT_EQ(backoff.NextWait(absl::ResourceExhaustedError("too large"), kForever),
            std::nullopt);
}

TEST(BackoffTest, OtherCodesAreFinal) {
  for (int code = 1; code <= 16; ++code) {
    if (code == 14) continue;  // UNAVAILABLE
    Backoff backoff(NoJitter(), Middle);
    const absl::Status error(static_cast<absl::StatusCode>(code), "no");
    EXPECT_EQ(backoff.NextWait(error, kForever), std::nullopt) << code;
  }
}

TEST(BackoffTest, NoWaitBeyondTheDeadline) {
  Backoff backoff(NoJitter(), Middle);
  const absl::Status error = absl::UnavailableError("down");
  EXPECT_EQ(backoff.NextWait(error, absl::Milliseconds(200)), std::nullopt);
  EXPECT_EQ(backoff.NextWait(error, absl::Milliseconds(401)), absl::Milliseconds(400));
}

}  // namespace
}  // namespace quire::client

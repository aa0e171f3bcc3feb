#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <string>
#include <thread>

#include "client/cancel_token.h"
#include "client/client_options.h"
#include "client/connection.h"

namespace quire::client {
namespace {

TEST(ClientOptionsTest, DefaultsAreValid) {
  EXPECT_TRUE(ClientOptions().Validate().ok());
  EXPECT_TRUE(CallOptions().Validate().ok());
}

struct BadOption {
  std::string message;
  std::function<void(ClientOptions&)> change;
};

class BadOptionTest : public ::testing::TestWithParam<BadOption> {};

TEST_P(BadOptionTest, IsRefusedByName) {
  ClientOptions options;
  GetParam().change(options);
  const absl::Status status = options.Validate();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(std::string(status.message()), GetParam().message);
}

INSTANTIATE_TEST_SUITE_P(
    All, BadOptionTest,
    ::testing::Values(
        BadOption{"address is empty; name host:port", [](auto& o) { o.address = ""; }},
        BadOption{"deadline is 0; it must be at least 1ms",
                  [](auto& o) { o.deadline = absl::ZeroDuration(); }},
        BadOption{"connect_timeout is 99ms; it must be at least 100ms",
                  [](auto& o) { o.connect_timeout = absl::Milliseconds(99); }},
        BadOption{"max_receive_message_bytes is 0; it must be in [65536, 1073741824]",
                  [](auto& o) { o.max_receive_message_bytes = 0; }},
        BadOption{"max_send_message_bytes is -1; it must be in [65536, 1073741824]",
                  [](auto& o) { o.max_send_message_bytes = -1; }},
        BadOption{"keepalive_interval is 9s; it must be at least 10s",
                  [](auto& o) { o.keepalive_interval = absl::Seconds(9); }},
        BadOption{"keepalive_timeout is 0; it must be at least 1s",
                  [](auto& o) { o.keepalive_timeout = absl::ZeroDuration(); }},
        BadOption{"retry.max_attempts is 0; it must be in [1, 100]",
                  [](auto& o) { o.retry.max_attempts = 0; }},
        BadOption{"retry.multiplier is 0.5; it must be in [1, 10]",
                  [](auto& o) { o.retry.multiplier = 0.5; }},
        BadOption{"retry.jitter is nan; it must be in [0, 1]",
                  [](auto& o) { o.retry.jitter = std::nan(""); }},
        BadOption{"retry.initial_backoff is 0; it must be at least 1ms",
                  [](auto& o) { o.retry.initial_backoff = absl::ZeroDuration(); }},
        BadOption{"retry.max_backoff is 100ms; it must be at least 200ms",
                  [](auto& o) { o.retry.max_backoff = absl::Milliseconds(100); }}));

TEST(CallOptionsTest, RequestIdIsShortPrintableAscii) {
  CallOptions call;
  call.request_id = std::string(128, 'x');
  EXPECT_TRUE(call.Validate().ok());
  call.request_id = std::string(129, 'x');
  EXPECT_EQ(std::string(call.Validate().message()),
            "request_id has 129 characters; at most 128 are allowed");
  call.request_id = "a\nb";
  EXPECT_EQ(call.Validate().code(), absl::StatusCode::kInvalidArgument);
  call.request_id = "caf\xC3\xA9";
  EXPECT_EQ(call.Validate().code(), absl::StatusCode::kInvalidArgument);
}

TEST(CallOptionsTest, TenantIsShortPrintableAscii) {
  CallOptions call;
  call.tenant = std::string(64, 'x');
  EXPECT_TRUE(call.Validate().ok());
  call.tenant = std::string(65, 'x');
  EXPECT_EQ(std::string(call.Validate().message()),
            "tenant has 65 characters; at most 64 are allowed");
  call.tenant = "a\tb";
  EXPECT_EQ(std::string(call.Validate().message()), "tenant must be printable ASCII");
}

TEST(CallOptionsTest, NegativeDeadlineIsRefused) {
  CallOptions call;
  call.deadline = absl::Seconds(-1);
  EXPECT_EQ(std::string(call.Validate().message()),
            "deadline is -1s; it must be at least 0");
}

TEST(CancelTokenTest, WaitEndsEarlyWhenCancelled) {
  CancelToken token;
  EXPECT_FALSE(token.WaitFor(absl::Milliseconds(1)));
  std::thread canceller([&] { token.Cancel(); });
  EXPECT_TRUE(token.WaitFor(absl::InfiniteDuration()));
  canceller.join();
  EXPECT_TRUE(token.cancelled());
  EXPECT_TRUE(token.WaitFor(absl::InfiniteDuration()));
}

TEST(IsLoopbackTest, KnowsThisMachinesAddresses) {
  EXPECT_TRUE(IsLoopback("127.0.0.1:50051"));
  EXPECT_TRUE(IsLoopback("localhost:1"));
  EXPECT_TRUE(IsLoopback("[::1]:50051"));
  EXPECT_TRUE(IsLoopback("unix:/run/quire.sock"));
  EXPECT_FALSE(IsLoopback("10.0.0.1:50051"));
  EXPECT_FALSE(IsLoopback("localhost.example.org:50051"));
}

}  // namespace
}  // namespace quire::client

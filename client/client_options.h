#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "client/cancel_token.h"

namespace quire::client {

// When a call that brought no event yet is tried again. UNAVAILABLE is always worth
// another try; RESOURCE_EXHAUSTED only if the server said when (google.rpc.RetryInfo):
// without that it means "too large", which no waiting cures.
struct RetryPolicy {
  int max_attempts = 4;  // 1 to 100; 1: never again
  absl::Duration initial_backoff = absl::Milliseconds(200);
  absl::Duration max_backoff = absl::Seconds(10);
  double multiplier = 2.0;  // of the backoff after each try; 1 to 10
  double jitter = 0.2;      // each wait is backoff * [1 - jitter, 1 + jitter); 0 to 1
  // A server that asks for a longer wait than this is not waited for.
  absl::Duration max_retry_delay = absl::Seconds(60);

  // kInvalidArgument names the field.
  absl::Status Validate() const;
};

struct ClientOptions {
  std::string address = "127.0.0.1:50051";  // host:port, or any gRPC target
  // Of every call that names none itself; infinite: no deadline.
  absl::Duration deadline = absl::InfiniteDuration();
  absl::Duration connect_timeout = absl::Seconds(10);  // of one attempt; >= 100 ms
  int max_receive_message_bytes = 4 << 20;             // 64 KiB to 1 GiB
  int max_send_message_bytes = 256 << 20;              // 64 KiB to 1 GiB
  // Pings while a call waits. gRPC servers refuse more than one in 5 minutes by default.
  absl::Duration keepalive_interval = absl::Minutes(5);  // >= 10 s
  absl::Duration keepalive_timeout = absl::Seconds(20);  // >= 1 s
  RetryPolicy retry;

  // kInvalidArgument names the field.
  absl::Status Validate() const;
};

// One call's own wishes.
struct CallOptions {
  // Everything included, retries too; zero: the client's.
  absl::Duration deadline = absl::ZeroDuration();
  // Sent as `x-request-id`: 1 to 128 printable ASCII characters; empty: the server makes
  // one.
  std::string request_id;
  // Sent as `x-quire-tenant`: 1 to 64 printable ASCII characters; empty: not sent.
  std::string tenant;
  // Cancels the call from any thread; null: only the stream itself can.
  std::shared_ptr<CancelToken> cancel;

  // kInvalidArgument names the field.
  absl::Status Validate() const;
};

// Where time and chance come from, so that tests own them. Called on the calling thread.
struct ClientHooks {
  // Waits that long, or until the token is cancelled.
  std::function<void(absl::Duration, const CancelToken&)> sleep;
  // Uniform in [0, 1).
  std::function<double()> random;
  // Told before each wait; may be empty.
  std::function<void(const absl::Status&, absl::Duration)> on_retry;

  // Real sleep, real randomness.
  static ClientHooks Default();
};

}  // namespace quire::client

#include "client/client_options.h"

#include <string_view>

#include "absl/random/random.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_format.h"

namespace quire::client {
namespace {

constexpr int kMinMessageBytes = 64 << 10;
constexpr int kMaxMessageBytes = 1 << 30;
constexpr size_t kMaxRequestIdBytes = 128;
constexpr size_t kMaxTenantBytes = 64;

// Empty is not sent.
absl::Status CheckMetadata(std::string_view field, std::string_view value, size_t limit) {
  if (value.size() > limit) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "%s has %d characters; at most %d are allowed", field, value.size(), limit));
  }
  for (unsigned char c : value) {
    if (!absl::ascii_isprint(c)) {
      return absl::InvalidArgumentError(
          absl::StrFormat("%s must be printable ASCII", field));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckMessageLimit(std::string_view field, int bytes) {
  if (bytes >= kMinMessageBytes && bytes <= kMaxMessageBytes) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrFormat("%s is %d; it must be in [%d, %d]",
                                                    field, bytes, kMinMessageBytes,
                                                    kMaxMessageBytes));
}

absl::Status CheckAtLeast(std::string_view field, absl::Duration value,
                          absl::Duration limit) {
  if (value >= limit) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrFormat("%s is %s; it must be at least %s",
                                                    field, absl::FormatDuration(value),
                                                    absl::FormatDuration(limit)));
}

// The negated form refuses NaN too.
absl::Status CheckInRange(std::string_view field, double value, double low, double high) {
  if (value >= low && value <= high) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrFormat("%s is %g; it must be in [%g, %g]", field, value, low, high));
}

}  // namespace

absl::Status RetryPolicy::Validate() const {
  absl::Status status = CheckInRange("retry.max_attempts", max_attempts, 1, 100);
  status.Update(CheckInRange("retry.multiplier", multiplier, 1, 10));
  status.Update(CheckInRange("retry.jitter", jitter, 0, 1));
  status.Update(
      CheckAtLeast("retry.initial_backoff", initial_backoff, absl::Milliseconds(1)));
  status.Update(CheckAtLeast("retry.max_backoff", max_backoff, initial_backoff));
  status.Update(
      CheckAtLeast("retry.max_retry_delay", max_retry_delay, absl::ZeroDuration()));
  return status;
}

absl::Status ClientOptions::Validate() const {
  if (address.empty())
    return absl::InvalidArgumentError("address is empty; name host:port");
  absl::Status status = CheckAtLeast("deadline", deadline, absl::Milliseconds(1));
  status.Update(
      CheckAtLeast("connect_timeout", connect_timeout, absl::Milliseconds(100)));
  status.Update(
      CheckMessageLimit("max_receive_message_bytes", max_receive_message_bytes));
  status.Update(CheckMessageLimit("max_send_message_bytes", max_send_message_bytes));
  status.Update(
      CheckAtLeast("keepalive_interval", keepalive_interval, absl::Seconds(10)));
  status.Update(CheckAtLeast("keepalive_timeout", keepalive_timeout, absl::Seconds(1)));
  status.Update(retry.Validate());
  return status;
}

absl::Status CallOptions::Validate() const {
  absl::Status status = CheckMetadata("request_id", request_id, kMaxRequestIdBytes);
  status.Update(CheckMetadata("tenant", tenant, kMaxTenantBytes));
  status.Update(CheckAtLeast("deadline", deadline, absl::ZeroDuration()));
  return status;
}

ClientHooks ClientHooks::Default() {
  ClientHooks hooks;
  hooks.sleep = [](absl::Duration wait, const CancelToken& cancel) {
    cancel.WaitFor(wait);
  };
  hooks.random = [] {
    thread_local absl::BitGen generator;
    return absl::Uniform(generator, 0.0, 1.0);
  };
  return hooks;
}

}  // namespace quire::client

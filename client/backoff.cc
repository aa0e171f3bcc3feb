#include "client/backoff.h"

#include <algorithm>
#include <utility>

#include "client/error_details.h"

namespace quire::client {

Backoff::Backoff(RetryPolicy policy, std::function<double()> random)
    : policy_(std::move(policy)),
      random_(std::move(random)),
      backoff_(policy_.initial_backoff) {}

std::optional<absl::Duration> Backoff::NextWait(const absl::Status& error,
                                                absl::Duration time_left) {
  const std::optional<absl::Duration> asked = GetErrorDetails(error).retry_delay;
  const bool retryable = absl::IsUnavailable(error) ||
                         (absl::IsResourceExhausted(error) && asked.has_value());
  if (!retryable || ++attempts_ >= policy_.max_attempts) return std::nullopt;
  if (asked && *asked > policy_.max_retry_delay) return std::nullopt;
  const double factor = 1.0 + policy_.jitter * (2.0 * random_() - 1.0);
  absl::Duration wait = backoff_ * factor;
  // The jitter goes on top of the server's delay: it tells everybody the same one.
  if (asked) wait += *asked;
  backoff_ = std::min(backoff_ * policy_.multiplier, policy_.max_backoff);
  if (wait >= time_left) return std::nullopt;
  return wait;
}

}  // namespace quire::client

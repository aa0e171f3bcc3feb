#pragma once

#include <functional>
#include <optional>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "client/client_options.h"

namespace quire::client {

// One call's waits between tries: exponential, with jitter, never less than what the
// server asked for. One thread.
class Backoff {
 public:
  // random: uniform in [0, 1).
  Backoff(RetryPolicy policy, std::function<double()> random);

  // How long to wait after this error before the next try; nullopt: give up, because the
  // code is not one to try again, the tries are used up, or the wait would outlast
  // `time_left`.
  std::optional<absl::Duration> NextWait(const absl::Status& error,
                                         absl::Duration time_left);

 private:
  const RetryPolicy policy_;
  const std::function<double()> random_;
  int attempts_ = 0;
  absl::Duration backoff_;
};

}  // namespace quire::client

#pragma once

#include "absl/time/time.h"

namespace quire::server {

// Device time that may be spent, as it comes in by the minute: a bucket of one minute's
// worth that is full at the start. What is spent is known only afterwards, so it may be
// overdrawn, by no more than the one who spent last. Not thread-safe.
class DeviceBudget {
 public:
  // per_minute >= 0; 0: nothing may ever be spent.
  DeviceBudget(absl::Duration per_minute, absl::Time now)
      : per_minute_(per_minute), left_(per_minute), filled_(now) {}

  // Whether something is left.
  bool HasLeft(absl::Time now);
  void Spend(absl::Duration time) { left_ -= time; }

 private:
  const absl::Duration per_minute_;
  absl::Duration left_;  // < 0: overdrawn
  absl::Time filled_;    // until when what came in is in left_
};

}  // namespace quire::server

#pragma once

#include <optional>

#include "absl/time/time.h"
#include "core/base/clock.h"
#include "quire/v1/inference.pb.h"

namespace quire::server {

// Decides which progress events are worth sending: the first and the last of each pass's
// phase, and at most ten a second between. Estimates the time left from the measured
// rate. Not thread-safe.
class ProgressThrottle {
 public:
  explicit ProgressThrottle(const Clock& clock) : clock_(clock) {}

  // Whether to send this event. `last`: the phase ends with it.
  bool ShouldSend(v1::Phase phase, int32_t pass, bool last);

  // Seconds until done == total at the rate since the phase began; nullopt before there
  // is one. REQUIRES: ShouldSend was asked about this phase. total >= done.
  std::optional<double> EtaSeconds(int64_t done, int64_t total);

 private:
  const Clock& clock_;
  v1::Phase phase_ = v1::PHASE_UNSPECIFIED;
  int32_t pass_ = 0;
  absl::Time sent_ = absl::InfinitePast();
  absl::Time rate_began_ = absl::InfinitePast();
  std::optional<int64_t> rate_done_;  // tokens done when the phase was first looked at
};

}  // namespace quire::server

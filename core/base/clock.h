#pragma once

#include "absl/time/time.h"

namespace quire {

// Source of time. Everything that waits or measures takes one, so tests own time.
// Implementations are thread-safe.
class Clock {
 public:
  virtual ~Clock() = default;
  virtual absl::Time Now() const = 0;
};

// The machine's clock. Never destroyed.
const Clock& SystemClock();

}  // namespace quire

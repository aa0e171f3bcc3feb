#include "core/base/clock.h"

#include "absl/time/clock.h"

namespace quire {
namespace {

class RealClock final : public Clock {
 public:
  absl::Time Now() const override { return absl::Now(); }
};

}  // namespace

const Clock& SystemClock() {
  static const Clock* const clock = new RealClock;
  return *clock;
}

}  // namespace quire

#include "server/shadow/budget.h"

#include <algorithm>

namespace quire::server {

bool DeviceBudget::HasLeft(absl::Time now) {
  if (now > filled_) {
    const double minutes = absl::FDivDuration(now - filled_, absl::Minutes(1));
    left_ = std::min(per_minute_, left_ + per_minute_ * minutes);
    filled_ = now;
  }
  return left_ > absl::ZeroDuration();
}

}  // namespace quire::server

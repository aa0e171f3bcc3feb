#include "server/shadow/savings.h"

#include <algorithm>
#include <cmath>

namespace quire::server {
namespace {

constexpr double kLeastWeight = 0.1;   // of the newest measurement
constexpr double kMaxLogFactor = 1.4;  // 4 times
// Times so short say nothing.
constexpr absl::Duration kLeast = absl::Milliseconds(1);

}  // namespace

void SavingsModel::Correct(AttentionMode mode, DeviceTime& device) const {
  if (mode == AttentionMode::kDense || device.dense_total() == device.total()) return;
  double factor = 1;
  {
    std::lock_guard lock(mutex_);
    factor = std::exp(log_correction_);
  }
  device.dense_prefill *= factor;
  device.dense_decode *= factor;
}

void SavingsModel::Learn(absl::Duration modelled, absl::Duration measured) {
  if (modelled < kLeast || measured < kLeast) return;
  const double error = std::log(absl::FDivDuration(measured, modelled));
  std::lock_guard lock(mutex_);
  ++learned_;
  const double weight = std::max(kLeastWeight, 1 / static_cast<double>(learned_));
  log_correction_ = std::clamp(log_correction_ + weight * (error - log_correction_),
                               -kMaxLogFactor, kMaxLogFactor);
}

}  // namespace quire::server

#include "server/rpc/progress.h"

namespace quire::server {
namespace {

constexpr absl::Duration kInterval = absl::Milliseconds(100);
// A rate over less is noise.
constexpr absl::Duration kMinMeasured = absl::Milliseconds(50);

}  // namespace

bool ProgressThrottle::ShouldSend(v1::Phase phase, int32_t pass, bool last) {
  const absl::Time now = clock_.Now();
  if (phase != phase_) rate_done_.reset();
  const bool first = phase != phase_ || pass != pass_;
  if (!first && !last && now - sent_ < kInterval) return false;
  phase_ = phase;
  pass_ = pass;
  sent_ = now;
  return true;
}

std::optional<double> ProgressThrottle::EtaSeconds(int64_t done, int64_t total) {
  const absl::Time now = clock_.Now();
  if (!rate_done_.has_value()) {
    rate_done_ = done;
    rate_began_ = now;
    return std::nullopt;
  }
  const absl::Duration elapsed = now - rate_began_;
  const int64_t measured = done - *rate_done_;
  if (measured <= 0 || elapsed < kMinMeasured) return std::nullopt;
  const double rate = static_cast<double>(measured) / absl::ToDoubleSeconds(elapsed);
  return static_cast<double>(total - done) / rate;
}

}  // namespace quire::server

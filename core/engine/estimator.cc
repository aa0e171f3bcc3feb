#include "core/engine/estimator.h"

#include <algorithm>
#include <cmath>

namespace quire {
namespace {

// Weight of the newest observation, and the largest factor a correction may reach.
constexpr double kWeight = 0.05;
constexpr double kMaxLogFactor = 1.4;  // 4 times
// Of times this short the noise says nothing.
constexpr int64_t kLeastNs = 1'000'000;

int64_t Scaled(int64_t ns, double log_factor) {
  return static_cast<int64_t>(static_cast<double>(ns) * std::exp(log_factor));
}

}  // namespace

TimeEstimate TimeEstimator::Estimate(const ScheduleOptions& options,
                                     const ScheduleState& state,
                                     const ScheduledRequest& request) const {
  TimeEstimate estimate = EstimateTimes(options, state, request, expected_percent());
  estimate.first_token_ns = Scaled(estimate.first_token_ns, log_first_);
  estimate.end_ns = std::max(estimate.first_token_ns, Scaled(estimate.end_ns, log_end_));
  return estimate;
}

TimeEstimate TimeEstimator::Alone(const ScheduleOptions& options, const StepCost& cost,
                                  const ScheduledRequest& request) const {
  return EstimateAlone(options, cost, request, expected_percent());
}

void TimeEstimator::LearnAnswer(int64_t generated, int64_t most) {
  if (most < 1) return;
  const double share = static_cast<double>(generated) / static_cast<double>(most);
  answer_share_ += kWeight * (std::clamp(share, 0.0, 1.0) - answer_share_);
}

double TimeEstimator::Learn(int64_t estimated_ns, absl::Duration real,
                            double& log_correction) {
  const int64_t real_ns = absl::ToInt64Nanoseconds(real);
  if (estimated_ns < kLeastNs || real_ns < kLeastNs) return 0;
  const double ratio = static_cast<double>(real_ns) / static_cast<double>(estimated_ns);
  log_correction = std::clamp(log_correction + kWeight * std::log(ratio), -kMaxLogFactor,
                              kMaxLogFactor);
  return ratio;
}

double TimeEstimator::LearnFirstToken(int64_t estimated_ns, absl::Duration real) {
  return Learn(estimated_ns, real, log_first_);
}

double TimeEstimator::LearnEnd(int64_t estimated_ns, absl::Duration real) {
  const double ratio = Learn(estimated_ns, real, log_end_);
  if (ratio > 0) end_error_ += kWeight * (std::abs(std::log(ratio)) - end_error_);
  return ratio;
}

double TimeEstimator::caution() const {
  constexpr double kErrors = 3;  // mean errors that are allowed for
  return std::min(2.0, std::exp(kErrors * end_error_));
}

int32_t TimeEstimator::expected_percent() const {
  return std::max(1, static_cast<int32_t>(std::lround(100 * answer_share_)));
}

}  // namespace quire

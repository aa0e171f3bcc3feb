#pragma once

#include <cstdint>

#include "absl/time/time.h"
#include "core/schedule/estimate.h"

namespace quire {

// Corrects EstimateTimes by what came of earlier estimates: the share of its longest
// answer that a request uses, and the ratio of real to estimated times, both as moving
// means. Plain value; copied to whoever estimates. Not thread-safe.
class TimeEstimator {
 public:
  TimeEstimate Estimate(const ScheduleOptions& options, const ScheduleState& state,
                        const ScheduledRequest& request) const;
  TimeEstimate Alone(const ScheduleOptions& options, const StepCost& cost,
                     const ScheduledRequest& request) const;

  // An answer of `generated` tokens, out of `most`, came to its end.
  void LearnAnswer(int64_t generated, int64_t most);
  // The first token, or the end, came after `real`; `estimated` is what Estimate had
  // said. Returns their ratio, or 0 if there is none.
  double LearnFirstToken(int64_t estimated_ns, absl::Duration real);
  double LearnEnd(int64_t estimated_ns, absl::Duration real);

  int32_t expected_percent() const;

  // What an estimated end is to be multiplied with before it is held against a deadline:
  // 1 and more, up to 2, by how far off the last estimates were. An engine that lets
  // everybody in who may just be in time fails half of them.
  double caution() const;

 private:
  static double Learn(int64_t estimated_ns, absl::Duration real, double& log_correction);

  double answer_share_ = 0.5;
  double log_first_ = 0;  // ln of the factor on estimates
  double log_end_ = 0;
  double end_error_ = 0;  // mean |ln(real / estimated)| of ends
};

}  // namespace quire

#pragma once

#include <memory>
#include <mutex>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "core/engine/batch.h"
#include "core/engine/engine.h"
#include "core/engine/estimator.h"
#include "core/engine/step_reporter.h"

namespace quire {

// Who may come in, and what is told of the engine's load: works on what the engine thread
// published after its last step and on what came since, so that an answer never waits for
// a step. Thread-safe; has its own lock, held for microseconds.
class Admission {
 public:
  // All must outlive this.
  Admission(const EngineOptions& options, const ScheduleOptions& schedule,
            const StepReporter& reporter);

  // kResourceExhausted, see Refusal; else what is to be expected. Take also counts the
  // request as come.
  absl::StatusOr<TimeEstimate> Check(const RequestShape& shape, absl::Time now) const;
  absl::StatusOr<TimeEstimate> Take(const RequestShape& shape, absl::Time now);

  RequestEstimate Estimate(const RequestShape& shape, absl::Time now) const;
  EngineStats stats(absl::Time now) const;

  // The engine thread's. `incoming`: accepted, but not in the batch yet.
  void Publish(const Batch& batch, const StepReporter::Totals& totals,
               const std::vector<std::unique_ptr<BatchRequest>>& incoming,
               absl::Time now);
  // The request's prompt was read, or it ended well: sets its ratios.
  void LearnFirstToken(BatchRequest& request, absl::Time now);
  void LearnEnd(BatchRequest& request, int64_t generated, absl::Time now);
  // It ran out of time: its times are at least those until now. Without these only what
  // was quick would be learned from.
  void LearnLate(BatchRequest& request, absl::Time now);

 private:
  // With what came since, at this time. REQUIRES: mutex_ is held.
  ScheduleState StateLocked(absl::Time now) const;
  absl::Status CheckRoomLocked(const RequestShape& shape) const;
  // comes: the request is here, and not only asked about.
  absl::StatusOr<TimeEstimate> CheckLocked(const RequestShape& shape, absl::Time now,
                                           bool comes) const;
  absl::Status CheckDeadline(const RequestShape& shape, const TimeEstimate& estimate,
                             const StepCost& cost, absl::Time now, bool comes) const;

  const EngineOptions& options_;
  const ScheduleOptions& schedule_;
  const StepReporter& reporter_;

  mutable std::mutex mutex_;  // guards all below
  ScheduleState state_;       // the batch's
  StepReporter::Totals totals_;
  EngineStats stats_;  // of the batch; what depends on the time is added when asked
  std::vector<ScheduledRequest> incoming_;
  TimeEstimator estimator_;
};

}  // namespace quire

#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "core/engine/batch.h"
#include "core/engine/engine.h"
#include "core/engine/estimator.h"
#include "core/engine/step_reporter.h"
#include "core/engine/tenants.h"

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

  // The engine thread's. `incoming`: accepted, but not in the batch yet. The state, which
  // takes longer to make, is that of the last plan, without those that are over.
  void Publish(const Batch& batch, const StepReporter::Totals& totals,
               const std::vector<std::unique_ptr<BatchRequest>>& incoming);
  void PublishState(ScheduleState state, const Tenants& tenants);
  void Forget(RequestId id);
  // The request's prompt was read, or it ended well: sets its ratios.
  void LearnFirstToken(BatchRequest& request, absl::Time now);
  void LearnEnd(BatchRequest& request, int64_t generated, absl::Time now);
  // It ran out of time: its times are at least those until now. Without these only what
  // was quick would be learned from.
  void LearnLate(BatchRequest& request, absl::Time now);

 private:
  struct Incoming {
    ScheduledRequest request;
    std::string tenant;
  };
  // What the next step would be planned from.
  struct View {
    ScheduleState state;
    // Indices of tenants that the batch does not know.
    absl::flat_hash_map<std::string, uint32_t> new_tenants;
    std::vector<bool> active;  // by tenant: it has requests
    int64_t least_served = 0;  // of those
  };
  // With what came since, at this time. REQUIRES: mutex_ is held, as for the next two.
  View ViewLocked(absl::Time now) const;
  // The index of a tenant that has a request from now on, see Tenants::Acquire.
  uint32_t JoinLocked(const std::string& tenant, View& view) const;
  ScheduledRequest NewestLocked(const RequestShape& shape, absl::Time now,
                                View& view) const;
  int64_t WaitingTokensLocked() const;  // with what came since
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
  ScheduleState state_;       // of the last plan
  StepReporter::Totals totals_;
  EngineStats stats_;  // of the batch; what depends on the time is added when asked
  absl::flat_hash_map<std::string, uint32_t> tenants_;  // of state_
  uint64_t tenant_changes_ = 0;
  std::vector<Incoming> incoming_;
  TimeEstimator estimator_;
};

}  // namespace quire

#pragma once

#include <mutex>

#include "absl/time/time.h"
#include "core/base/clock.h"
#include "core/engine/engine.h"
#include "server/observability/recent_latency.h"

namespace quire::server {

// What GetLoad tells of a model beside its engine's own numbers. Requests that are
// computed again to be measured are not in it.
struct ActivitySnapshot {
  // Since the start: multiply-adds of attention, choosing, statistics and audits
  // included, and what dense attention of the same rows takes. Doubles: a busy year
  // passes 2^63.
  double attention_macs = 0;
  double dense_attention_macs = 0;
  LatencyPercentiles first_token;  // of calls, from their arrival
  LatencyPercentiles inter_token;
};

// Stands before a model's own observer, keeps what a glance at the model needs and hands
// everything on. Thread-safe.
class Activity final : public EngineObserver {
 public:
  // Both must outlive this.
  Activity(EngineObserver& next, const Clock& clock) : next_(next), clock_(clock) {}

  void OnFirstToken(absl::Duration since_arrival);
  ActivitySnapshot snapshot() const;

  void OnStep(const StepReport& step) override;
  void OnFinished(const FinishReport& finished) override { next_.OnFinished(finished); }
  void OnWouldRefuse() override { next_.OnWouldRefuse(); }
  void OnPlan(const ScheduleOptions& options, const ScheduleState& state,
              const StepPlan& plan) override {
    next_.OnPlan(options, state, plan);
  }

 private:
  EngineObserver& next_;
  const Clock& clock_;
  mutable std::mutex mutex_;  // guards the rest
  double attention_macs_ = 0;
  double dense_attention_macs_ = 0;
  RecentLatency first_token_;
  RecentLatency inter_token_;
};

}  // namespace quire::server

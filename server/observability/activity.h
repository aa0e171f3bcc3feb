#pragma once

#include <mutex>

#include "absl/time/time.h"
#include "core/base/clock.h"
#include "core/engine/engine.h"
#include "server/observability/recent_latency.h"
#include "server/observability/savings_report.h"

namespace quire::server {

// Shadow runs together.
struct ShadowTotals {
  int64_t count = 0;
  absl::Duration own;
  absl::Duration dense;
  int64_t compared_tokens = 0;
  double logprob_abs_delta = 0;  // sum over the tokens
  int64_t top1_mismatches = 0;
};

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
  ShadowTotals shadows;
};

// Stands before a model's own observers, keeps what a glance at the model needs and hands
// everything on. Thread-safe.
class Activity final : public EngineObserver, public SavingsObserver {
 public:
  // All must outlive this; savings may be null.
  Activity(EngineObserver& next, const Clock& clock, SavingsObserver* savings = nullptr)
      : next_(next), savings_(savings), clock_(clock) {}

  void OnFirstToken(absl::Duration since_arrival);
  ActivitySnapshot snapshot() const;

  void OnStep(const StepReport& step) override;
  void OnFinished(const FinishReport& finished) override { next_.OnFinished(finished); }
  void OnWouldRefuse() override { next_.OnWouldRefuse(); }
  void OnPlan(const ScheduleOptions& options, const ScheduleState& state,
              const StepPlan& plan) override {
    next_.OnPlan(options, state, plan);
  }

  void OnShadow(const ShadowResult& result) override;
  void OnSavings(const SavingsReport& report) override {
    if (savings_ != nullptr) savings_->OnSavings(report);
  }
  void OnShadowSkipped(ShadowSkip reason) override {
    if (savings_ != nullptr) savings_->OnShadowSkipped(reason);
  }

 private:
  EngineObserver& next_;
  SavingsObserver* const savings_;
  const Clock& clock_;
  mutable std::mutex mutex_;  // guards the rest
  double attention_macs_ = 0;
  double dense_attention_macs_ = 0;
  RecentLatency first_token_;
  RecentLatency inter_token_;
  ShadowTotals shadows_;
};

}  // namespace quire::server

#pragma once

#include <array>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "core/engine/engine.h"
#include "prometheus/counter.h"
#include "prometheus/family.h"
#include "prometheus/histogram.h"
#include "prometheus/registry.h"
#include "server/method.h"
#include "server/observability/schedule_trace.h"

namespace quire::server {

enum class CallStage : uint8_t { kQueue, kPrefill, kDecode };
enum class Rejection : uint8_t {
  kLoading,
  kDraining,
  kWaitingRoomFull,
  kDeadlineUnreachable,
  kRequestTooLarge,
};

// Every metric that is counted as things happen, declared here and nowhere else. (What is
// read off when the page is asked for is in collectors.h.) Label values come from fixed
// sets: methods, codes, stages, reasons and the names of the loaded models. Thread-safe.
class Metrics {
 public:
  // The registry must outlive this.
  explicit Metrics(prometheus::Registry& registry);

  void OnCall(Method method, absl::StatusCode code, absl::Duration elapsed);
  void OnFirstToken(Method method, absl::Duration since_arrival);
  void OnQueued(absl::Duration queued);
  void OnRejected(Rejection reason);
  void OnCancelled(CallStage stage);
  void OnStep(const StepReport& step);
  // A request to an engine is over; a call may make several.
  void OnFinished(const FinishReport& finished);
  void OnWouldRefuse() { would_refuse_.Increment(); }
  void OnModel(absl::string_view name, absl::string_view architecture,
               absl::string_view compute_type);

 private:
  // What the attention of one phase and mode counts in: found once, for the engine
  // thread.
  struct AttentionCounters {
    std::array<prometheus::Counter*, 4> macs;  // attention, selection, statistics, audit
    prometheus::Counter* flops;
  };
  struct PhaseCounters {
    std::array<AttentionCounters, kAttentionModes> modes;
    prometheus::Counter* dense_flops;
    prometheus::Counter* kv_bytes;
    prometheus::Counter* dense_kv_bytes;
  };
  static PhaseCounters MakePhase(prometheus::Registry& registry, const char* phase);
  void CountAttention(const std::array<AttentionStats, kAttentionModes>& attention,
                      const PhaseCounters& phase);
  void OnAttention(const AttentionReceipt& receipt);

  prometheus::Family<prometheus::Histogram>& request_seconds_;      // method, code
  prometheus::Family<prometheus::Histogram>& time_to_first_token_;  // method
  prometheus::Histogram& inter_token_latency_;
  prometheus::Histogram& queue_seconds_;
  prometheus::Counter& prompt_tokens_;
  prometheus::Counter& generated_tokens_;
  prometheus::Family<prometheus::Counter>& rejections_;  // reason
  prometheus::Family<prometheus::Counter>& cancelled_;   // stage
  prometheus::Family<prometheus::Gauge>& model_info_;

  prometheus::Counter& recomputed_tokens_;
  prometheus::Counter& cached_tokens_;
  std::array<prometheus::Counter*, 3> wasted_tokens_;  // by stage
  prometheus::Counter& preemptions_;
  prometheus::Counter& would_refuse_;
  prometheus::Histogram& first_token_ratio_;
  prometheus::Histogram& end_ratio_;
  prometheus::Histogram& batch_sequences_;
  prometheus::Histogram& step_seconds_;

  const PhaseCounters prefill_;
  const PhaseCounters decode_;
  prometheus::Counter& selection_seconds_;
  prometheus::Histogram& attention_density_;
  prometheus::Histogram& attention_error_;
  prometheus::Counter& fallback_max_error_;
  prometheus::Counter& fallback_short_text_;
};

// Counts what an engine does, and records its plans in a trace, which may be null.
class StepMetrics final : public EngineObserver {
 public:
  // Both must outlive this.
  explicit StepMetrics(Metrics& metrics, ScheduleTrace* trace = nullptr)
      : metrics_(metrics), trace_(trace) {}
  void OnStep(const StepReport& step) override { metrics_.OnStep(step); }
  void OnFinished(const FinishReport& finished) override {
    metrics_.OnFinished(finished);
  }
  void OnWouldRefuse() override { metrics_.OnWouldRefuse(); }
  void OnPlan(const ScheduleOptions& options, const ScheduleState& state,
              const StepPlan& plan) override {
    if (trace_ != nullptr) trace_->Add(options, state, plan);
  }

 private:
  Metrics& metrics_;
  ScheduleTrace* const trace_;
};

}  // namespace quire::server

#pragma once

#include <array>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "core/engine/engine.h"
#include "prometheus/counter.h"
#include "prometheus/gauge.h"
#include "prometheus/histogram.h"
#include "prometheus/registry.h"
#include "server/method.h"
#include "server/model_cost.h"
#include "server/observability/label_value.h"
#include "server/observability/metric_families.h"
#include "server/observability/savings_report.h"
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

// Counts what happens in the metrics of the catalogue. (What is read off when the page is
// asked for is in collectors.h.) Background requests count in nothing but the device time
// of shadows. Thread-safe.
class Metrics final : public SavingsObserver {
 public:
  // The registry must outlive this.
  explicit Metrics(prometheus::Registry& registry);

  void OnCall(Method method, absl::StatusCode code, absl::Duration elapsed);
  // REQUIRES: a method that answers with text.
  void OnFirstToken(Method method, absl::Duration since_arrival);
  void OnQueued(absl::Duration queued);
  void OnRejected(Rejection reason);
  void OnCancelled(CallStage stage);
  // `row`: of the model whose engine it is.
  void OnStep(const StepReport& step, const RowMacs& row);
  // A request to an engine is over; a call may make several.
  void OnFinished(const FinishReport& finished);
  void OnWouldRefuse() { would_refuse_.Increment(); }
  void OnModel(absl::string_view name, absl::string_view architecture,
               absl::string_view compute_type);
  // USD for an hour of device time; 0: not set.
  void SetDeviceHourPrice(double usd) { device_hour_price_.Set(usd); }

  void OnSavings(const SavingsReport& report) override;
  void OnShadow(const ShadowResult& result) override;
  void OnShadowSkipped(ShadowSkip reason) override;

 private:
  using Counter = prometheus::Counter;
  using Histogram = prometheus::Histogram;
  static constexpr size_t kParts = 4;  // attention, selection, statistics, audit
  // What the work of one phase counts in, by mode: found once, for the engine thread.
  struct PhaseCounters {
    std::array<std::array<Counter*, kParts>, kAttentionModes> macs;
    std::array<Counter*, kAttentionModes> flops;
    std::array<Counter*, kAttentionModes> seconds;
    Counter* dense_flops;
    Counter* kv_bytes;
    Counter* dense_kv_bytes;
  };
  static PhaseCounters MakePhase(const MetricFamilies& families, const char* phase);
  void CountPhase(const std::array<AttentionStats, kAttentionModes>& attention,
                  const std::array<absl::Duration, kAttentionModes>& time,
                  const PhaseCounters& phase, AttentionWork& all);
  void CountModel(const StepReport& step, const RowMacs& row, const AttentionWork& all);
  void OnGaps(absl::Span<const absl::Duration> gaps);
  void OnAttention(const AttentionReceipt& receipt, const Usage& usage);

  const MetricFamilies families_;

  Histogram& inter_token_latency_;
  Histogram& queue_seconds_;
  const std::array<Counter*, 5> rejections_;  // by reason
  Counter& would_refuse_;
  const std::array<Counter*, 3> cancelled_;  // by stage
  Counter& prompt_tokens_;
  Counter& generated_tokens_;
  Counter& cached_tokens_;
  Counter& recomputed_tokens_;
  const std::array<Counter*, 3> wasted_tokens_;  // by stage
  TenantTokens tenant_tokens_;

  Histogram& step_seconds_;
  Histogram& batch_sequences_;
  Counter& preemptions_;
  Histogram& first_token_ratio_;
  Histogram& end_ratio_;

  const PhaseCounters prefill_;
  const PhaseCounters decode_;
  const std::array<Counter*, 5> model_flops_;  // by part
  Counter& selection_seconds_;
  Counter& expanded_keys_;
  const std::array<Counter*, 5> columns_;        // by context
  const std::array<Counter*, 5> dense_columns_;  // by context
  Histogram& attention_density_;
  Histogram& attention_error_;
  const std::array<Counter*, 2> fallbacks_;  // max_error, short_text

  const std::array<Counter*, 2> device_seconds_;        // by basis
  const std::array<Counter*, 2> dense_device_seconds_;  // by basis
  const std::array<Counter*, 2> saved_usd_;             // by basis
  const std::array<Counter*, 2> lost_usd_;              // by basis
  prometheus::Gauge& device_hour_price_;

  Counter& shadow_samples_;
  const std::array<Counter*, kShadowSkips> shadow_skipped_;  // by reason
  Histogram& shadow_speedup_;
  Histogram& shadow_logprob_delta_;
  Counter& shadow_compared_tokens_;
  Counter& shadow_mismatches_;
  Counter& shadow_device_seconds_;
};

// Counts what a model's engine does, and records its plans in a trace, which may be null.
class StepMetrics final : public EngineObserver {
 public:
  // Both must outlive this.
  explicit StepMetrics(Metrics& metrics, ScheduleTrace* trace = nullptr)
      : metrics_(metrics), trace_(trace) {}
  // REQUIRES: before the engine's first request.
  void SetModel(const ModelConfig& config) { row_ = MacsOfRow(config); }
  void OnStep(const StepReport& step) override { metrics_.OnStep(step, row_); }
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
  RowMacs row_;
};

}  // namespace quire::server

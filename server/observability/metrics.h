#pragma once

#include <optional>
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

namespace quire::server {

enum class CallStage : uint8_t { kQueue, kPrefill, kDecode };
enum class Rejection : uint8_t { kLoading, kDraining, kWaitingRoomFull };

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
  void OnAttention(const AttentionReceipt& receipt);
  void OnModel(absl::string_view name, absl::string_view architecture,
               absl::string_view compute_type);

 private:
  // The step's attention; zeros make the series that steps will count in.
  void CountAttention(const AttentionStats& attention, AttentionMode mode, bool prefill);

  prometheus::Family<prometheus::Histogram>& request_seconds_;      // method, code
  prometheus::Family<prometheus::Histogram>& time_to_first_token_;  // method
  prometheus::Histogram& inter_token_latency_;
  prometheus::Histogram& queue_seconds_;
  prometheus::Counter& prompt_tokens_;
  prometheus::Counter& generated_tokens_;
  prometheus::Family<prometheus::Counter>& rejections_;  // reason
  prometheus::Family<prometheus::Counter>& cancelled_;   // stage
  prometheus::Family<prometheus::Gauge>& model_info_;

  prometheus::Family<prometheus::Counter>& attention_macs_;   // phase, mode, part
  prometheus::Family<prometheus::Counter>& attention_flops_;  // phase, mode
  prometheus::Family<prometheus::Counter>& dense_flops_;      // phase
  prometheus::Family<prometheus::Counter>& kv_bytes_;         // phase
  prometheus::Family<prometheus::Counter>& dense_kv_bytes_;   // phase
  prometheus::Counter& selection_seconds_;
  prometheus::Histogram& attention_density_;
  prometheus::Histogram& attention_error_;
  prometheus::Family<prometheus::Counter>& dense_fallback_;  // reason
};

// Counts an engine's steps.
class StepMetrics final : public EngineObserver {
 public:
  explicit StepMetrics(Metrics& metrics) : metrics_(metrics) {}
  void OnStep(const StepReport& step) override { metrics_.OnStep(step); }
  void OnFinished(const AttentionReceipt& attention) override {
    metrics_.OnAttention(attention);
  }

 private:
  Metrics& metrics_;
};

}  // namespace quire::server

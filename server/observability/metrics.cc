#include "server/observability/metrics.h"

#include "server/rpc/status.h"
#include "server/version.h"

namespace quire::server {
namespace {

using prometheus::BuildCounter;
using prometheus::BuildGauge;
using prometheus::BuildHistogram;
using prometheus::Counter;
using prometheus::Family;
using prometheus::Gauge;
using prometheus::Histogram;
using prometheus::Registry;
using Buckets = Histogram::BucketBoundaries;

// Seconds. A long document on a small machine takes half an hour.
const Buckets& CallBuckets() {
  static const Buckets& buckets =
      *new Buckets{0.01, 0.03, 0.1, 0.3, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 900, 1800};
  return buckets;
}
const Buckets& TokenBuckets() {
  static const Buckets& buckets = *new Buckets{
      0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.15, 0.3, 0.6, 1.2, 2.5, 5};
  return buckets;
}

Family<Histogram>& Histograms(Registry& registry, const char* name, const char* help) {
  return BuildHistogram().Name(name).Help(help).Register(registry);
}
Family<Counter>& Counters(Registry& registry, const char* name, const char* help) {
  return BuildCounter().Name(name).Help(help).Register(registry);
}
Family<Gauge>& Gauges(Registry& registry, const char* name, const char* help) {
  return BuildGauge().Name(name).Help(help).Register(registry);
}

const char* StageName(CallStage stage) {
  constexpr const char* kNames[] = {"queue", "prefill", "decode"};
  return kNames[static_cast<int>(stage)];
}
const char* RejectionName(Rejection reason) {
  constexpr const char* kNames[] = {"loading", "draining", "waiting_room_full"};
  return kNames[static_cast<int>(reason)];
}

}  // namespace

Metrics::Metrics(Registry& registry)
    : request_seconds_(
          Histograms(registry, "quire_request_seconds",
                     "Calls from arrival to their end, by method and gRPC code.")),
      time_to_first_token_(Histograms(registry, "quire_time_to_first_token_seconds",
                                      "From a call's arrival to its first token.")),
      inter_token_latency_(
          Histograms(registry, "quire_inter_token_latency_seconds",
                     "Steps that only decode: the time between two tokens.")
              .Add({}, TokenBuckets())),
      queue_seconds_(Histograms(registry, "quire_queue_seconds",
                                "Calls' waiting for the engine, all passes together.")
                         .Add({}, CallBuckets())),
      prompt_tokens_(Counters(registry, "quire_prompt_tokens_total",
                              "Prompt tokens that were computed.")
                         .Add({})),
      generated_tokens_(
          Counters(registry, "quire_generated_tokens_total", "Tokens that were chosen.")
              .Add({})),
      rejections_(Counters(registry, "quire_admission_rejections_total",
                           "Calls that were refused before any work, by reason.")),
      cancelled_(Counters(registry, "quire_cancelled_total",
                          "Calls cancelled or out of time, by what they were doing.")),
      model_info_(Gauges(registry, "quire_model_info", "Always 1; the loaded models.")) {
  Gauges(registry, "quire_build_info", "Always 1; what this server is.")
      .Add({{"version", kVersion}})
      .Set(1);
  // Present from the start, so that rates over them are right for the first event too.
  for (const Rejection reason :
       {Rejection::kLoading, Rejection::kDraining, Rejection::kWaitingRoomFull}) {
    rejections_.Add({{"reason", RejectionName(reason)}});
  }
  for (const CallStage stage :
       {CallStage::kQueue, CallStage::kPrefill, CallStage::kDecode}) {
    cancelled_.Add({{"stage", StageName(stage)}});
  }
}

void Metrics::OnCall(Method method, absl::StatusCode code, absl::Duration elapsed) {
  request_seconds_
      .Add({{"method", std::string(MethodName(method))}, {"code", CodeName(code)}},
           CallBuckets())
      .Observe(absl::ToDoubleSeconds(elapsed));
}

void Metrics::OnFirstToken(Method method, absl::Duration since_arrival) {
  time_to_first_token_.Add({{"method", std::string(MethodName(method))}}, CallBuckets())
      .Observe(absl::ToDoubleSeconds(since_arrival));
}

void Metrics::OnQueued(absl::Duration queued) {
  queue_seconds_.Observe(absl::ToDoubleSeconds(queued));
}

void Metrics::OnRejected(Rejection reason) {
  rejections_.Add({{"reason", RejectionName(reason)}}).Increment();
}

void Metrics::OnCancelled(CallStage stage) {
  cancelled_.Add({{"stage", StageName(stage)}}).Increment();
}

void Metrics::OnStep(absl::Duration elapsed, int32_t prompt_tokens,
                     int32_t generated_tokens) {
  prompt_tokens_.Increment(prompt_tokens);
  generated_tokens_.Increment(generated_tokens);
  if (prompt_tokens > 0) return;
  for (int32_t i = 0; i < generated_tokens; ++i) {
    inter_token_latency_.Observe(absl::ToDoubleSeconds(elapsed));
  }
}

void Metrics::OnModel(absl::string_view name, absl::string_view architecture,
                      absl::string_view compute_type) {
  model_info_
      .Add({{"model", std::string(name)},
            {"architecture", std::string(architecture)},
            {"compute_type", std::string(compute_type)}})
      .Set(1);
}

}  // namespace quire::server

#include "server/observability/metrics.h"

#include <utility>

#include "prometheus/labels.h"
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

// Shares of dense attention's columns; relative errors.
const Buckets& DensityBuckets() {
  static const Buckets& buckets =
      *new Buckets{0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1};
  return buckets;
}
const Buckets& ErrorBuckets() {
  static const Buckets& buckets =
      *new Buckets{0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1};
  return buckets;
}

const char* StageName(CallStage stage) {
  constexpr const char* kNames[] = {"queue", "prefill", "decode"};
  return kNames[static_cast<int>(stage)];
}
const char* RejectionName(Rejection reason) {
  constexpr const char* kNames[] = {"loading", "draining", "waiting_room_full"};
  return kNames[static_cast<int>(reason)];
}
const char* ModeName(AttentionMode mode) {
  constexpr const char* kNames[] = {"auto", "dense", "faithful", "refined"};
  return kNames[static_cast<int>(mode)];
}

// Why a request that asked for sparse attention was dense.
constexpr char kMaxError[] = "max_error";
constexpr char kShortText[] = "short_text";

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
      model_info_(Gauges(registry, "quire_model_info", "Always 1; the loaded models.")),
      attention_macs_(Counters(registry, "quire_attention_macs_total",
                               "Multiply-adds of attention, by what they were for.")),
      attention_flops_(Counters(registry, "quire_attention_flops_total",
                                "Two for each multiply-add of attention, all parts.")),
      dense_flops_(Counters(registry, "quire_attention_flops_dense_equivalent_total",
                            "What dense attention of the same tokens takes.")),
      kv_bytes_(Counters(registry, "quire_kv_bytes_read_total",
                         "Keys, values and group data that attention fetched.")),
      dense_kv_bytes_(Counters(registry, "quire_kv_bytes_read_dense_equivalent_total",
                               "What dense attention of the same tokens fetches.")),
      selection_seconds_(Counters(registry, "quire_selection_seconds_total",
                                  "Time of attention spent on choosing what to read.")
                             .Add({})),
      attention_density_(Histograms(registry, "quire_attention_density_ratio",
                                    "Keys that a request read, of those dense attention "
                                    "reads.")
                             .Add({}, DensityBuckets())),
      attention_error_(Histograms(registry, "quire_attention_error",
                                  "Mean relative error of a request's attention outputs, "
                                  "of those that were audited.")
                           .Add({}, ErrorBuckets())),
      dense_fallback_(Counters(registry, "quire_dense_fallback_total",
                               "Requests for sparse attention that were or went dense, "
                               "by reason.")) {
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
  for (const AttentionMode mode : {AttentionMode::kAuto, AttentionMode::kDense,
                                   AttentionMode::kFaithful, AttentionMode::kRefined}) {
    for (const bool prefill : {true, false}) CountAttention({}, mode, prefill);
  }
  for (const char* reason : {kMaxError, kShortText}) {
    dense_fallback_.Add({{"reason", reason}});
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

void Metrics::OnStep(const StepReport& step) {
  prompt_tokens_.Increment(step.prompt_tokens);
  generated_tokens_.Increment(step.generated_tokens);
  const bool prefill = step.prompt_tokens > 0;
  CountAttention(step.attention, step.mode, prefill);
  if (prefill) return;
  for (int32_t i = 0; i < step.generated_tokens; ++i) {
    inter_token_latency_.Observe(absl::ToDoubleSeconds(step.elapsed));
  }
}

void Metrics::CountAttention(const AttentionStats& attention, AttentionMode mode,
                             bool prefill) {
  const AttentionWork& work = attention.work;
  const prometheus::Labels phase = {{"phase", prefill ? "prefill" : "decode"}};
  prometheus::Labels labels = phase;
  labels["mode"] = ModeName(mode);
  const auto add = [](Family<Counter>& family, const prometheus::Labels& at, int64_t n) {
    family.Add(at).Increment(static_cast<double>(n));
  };
  add(attention_flops_, labels, 2 * work.executed_macs());
  add(dense_flops_, phase, 2 * work.dense_macs);
  add(kv_bytes_, phase, work.executed_bytes());
  add(dense_kv_bytes_, phase, work.dense_bytes);
  selection_seconds_.Increment(attention.selection_seconds);
  for (const auto& [part, macs] : {std::pair("attention", work.attention_macs),
                                   std::pair("selection", work.selection_macs),
                                   std::pair("statistics", work.statistics_macs),
                                   std::pair("audit", work.audit_macs)}) {
    labels["part"] = part;
    add(attention_macs_, labels, macs);
  }
}

void Metrics::OnAttention(const AttentionReceipt& receipt) {
  AttentionStats all = receipt.prefill;
  all += receipt.decode;
  if (all.work.dense_columns == 0) return;  // ended before its first step did
  attention_density_.Observe(static_cast<double>(all.work.columns) /
                             static_cast<double>(all.work.dense_columns));
  if (all.audits > 0) {
    attention_error_.Observe(all.audit_error / static_cast<double>(all.audits));
  }
  // Of AUTO it is no fallback to read short texts densely.
  const bool sparse_asked =
      receipt.mode == AttentionMode::kFaithful || receipt.mode == AttentionMode::kRefined;
  if (receipt.fell_back) {
    dense_fallback_.Add({{"reason", kMaxError}}).Increment();
  } else if (sparse_asked && all.sparse_rows == 0) {
    dense_fallback_.Add({{"reason", kShortText}}).Increment();
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

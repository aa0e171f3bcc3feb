#include "server/observability/metrics.h"

#include <iterator>

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

// Real over estimated time.
const Buckets& RatioBuckets() {
  static const Buckets& buckets =
      *new Buckets{0.1, 0.25, 0.5, 0.67, 0.8, 0.9, 1, 1.1, 1.25, 1.5, 2, 4, 10};
  return buckets;
}
const Buckets& SequenceBuckets() {
  static const Buckets& buckets = *new Buckets{1, 2, 4, 8, 16, 32, 64, 128, 256, 512};
  return buckets;
}

const char* StageName(CallStage stage) {
  constexpr const char* kNames[] = {"queue", "prefill", "decode"};
  return kNames[static_cast<int>(stage)];
}
const char* RejectionName(Rejection reason) {
  constexpr const char* kNames[] = {"loading", "draining", "waiting_room_full",
                                    "deadline_unreachable", "request_too_large"};
  return kNames[static_cast<int>(reason)];
}
const char* ModeName(AttentionMode mode) {
  constexpr const char* kNames[] = {"auto", "dense", "faithful", "refined"};
  return kNames[static_cast<int>(mode)];
}

// Why a request that asked for sparse attention was dense.
Family<Counter>& Fallbacks(Registry& registry) {
  return Counters(registry, "quire_dense_fallback_total",
                  "Requests for sparse attention that were or went dense, by reason.");
}

// In the order of enum CallStage and of the core's RequestStage.
std::array<Counter*, 3> ByStage(Family<Counter>& family) {
  std::array<Counter*, 3> counters;
  for (size_t i = 0; i < counters.size(); ++i) {
    counters[i] = &family.Add({{"stage", StageName(static_cast<CallStage>(i))}});
  }
  return counters;
}

void Add(Counter* counter, int64_t n) {
  if (n != 0) counter->Increment(static_cast<double>(n));
}

}  // namespace

Metrics::PhaseCounters Metrics::MakePhase(Registry& registry, const char* phase) {
  auto& macs = Counters(registry, "quire_attention_macs_total",
                        "Multiply-adds of attention, by what they were for.");
  auto& flops = Counters(registry, "quire_attention_flops_total",
                         "Two for each multiply-add of attention, all parts.");
  const prometheus::Labels labels = {{"phase", phase}};
  PhaseCounters counters{
      .modes = {},
      .dense_flops = &Counters(registry, "quire_attention_flops_dense_equivalent_total",
                               "What dense attention of the same tokens takes.")
                          .Add(labels),
      .kv_bytes = &Counters(registry, "quire_kv_bytes_read_total",
                            "Keys, values and group data that attention fetched.")
                       .Add(labels),
      .dense_kv_bytes = &Counters(registry, "quire_kv_bytes_read_dense_equivalent_total",
                                  "What dense attention of the same tokens fetches.")
                             .Add(labels)};
  for (size_t mode = 0; mode < counters.modes.size(); ++mode) {
    prometheus::Labels own = labels;
    own["mode"] = ModeName(static_cast<AttentionMode>(mode));
    counters.modes[mode].flops = &flops.Add(own);
    constexpr const char* kParts[] = {"attention", "selection", "statistics", "audit"};
    for (size_t part = 0; part < std::size(kParts); ++part) {
      own["part"] = kParts[part];
      counters.modes[mode].macs[part] = &macs.Add(own);
    }
  }
  return counters;
}

Metrics::Metrics(Registry& registry)
    : request_seconds_(
          Histograms(registry, "quire_request_seconds",
                     "Calls from arrival to their end, by method and gRPC code.")),
      time_to_first_token_(Histograms(registry, "quire_time_to_first_token_seconds",
                                      "From a call's arrival to its first token.")),
      inter_token_latency_(
          Histograms(registry, "quire_inter_token_latency_seconds",
                     "From one token of an answer to the next, as the engine makes "
                     "them.")
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
      recomputed_tokens_(Counters(registry, "quire_recomputed_tokens_total",
                                  "Tokens that were computed again after a preemption.")
                             .Add({})),
      cached_tokens_(Counters(registry, "quire_prefix_cached_tokens_total",
                              "Prompt tokens that were found in the cache instead.")
                         .Add({})),
      wasted_tokens_(ByStage(
          Counters(registry, "quire_wasted_tokens_total",
                   "Tokens computed for answers that nobody got, by what the request was "
                   "doing when it ended."))),
      preemptions_(Counters(registry, "quire_preemptions_total",
                            "Requests that gave their place up and began again.")
                       .Add({})),
      would_refuse_(Counters(registry, "quire_would_refuse_total",
                             "Requests that admission=report let in and enforce would "
                             "not.")
                        .Add({})),
      first_token_ratio_(
          Histograms(registry, "quire_estimate_error_ratio",
                     "Real over estimated time until an event, as estimated when the "
                     "request came.")
              .Add({{"event", "first_token"}}, RatioBuckets())),
      end_ratio_(Histograms(registry, "quire_estimate_error_ratio",
                            "Real over estimated time until an event, as estimated when "
                            "the request came.")
                     .Add({{"event", "end"}}, RatioBuckets())),
      batch_sequences_(Histograms(registry, "quire_batch_sequences",
                                  "Requests that a step of the engine computed.")
                           .Add({}, SequenceBuckets())),
      step_seconds_(
          Histograms(registry, "quire_engine_step_seconds", "Steps of the engine.")
              .Add({}, TokenBuckets())),
      prefill_(MakePhase(registry, "prefill")),
      decode_(MakePhase(registry, "decode")),
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
      fallback_max_error_(Fallbacks(registry).Add({{"reason", "max_error"}})),
      fallback_short_text_(Fallbacks(registry).Add({{"reason", "short_text"}})) {
  Gauges(registry, "quire_build_info", "Always 1; what this server is.")
      .Add({{"version", kVersion}})
      .Set(1);
  // Present from the start, so that rates over them are right for the first event too.
  for (const Rejection reason :
       {Rejection::kLoading, Rejection::kDraining, Rejection::kWaitingRoomFull,
        Rejection::kDeadlineUnreachable, Rejection::kRequestTooLarge}) {
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

void Metrics::OnStep(const StepReport& step) {
  prompt_tokens_.Increment(step.prompt_tokens);
  generated_tokens_.Increment(step.generated_tokens);
  recomputed_tokens_.Increment(step.recomputed_tokens);
  batch_sequences_.Observe(step.sequences);
  step_seconds_.Observe(absl::ToDoubleSeconds(step.elapsed));
  for (const absl::Duration gap : step.inter_token) {
    inter_token_latency_.Observe(absl::ToDoubleSeconds(gap));
  }
  CountAttention(step.prefill, prefill_);
  CountAttention(step.decode, decode_);
}

void Metrics::OnFinished(const FinishReport& finished) {
  Add(&cached_tokens_, finished.usage.cached_tokens);
  Add(wasted_tokens_[static_cast<size_t>(finished.stage)], finished.wasted_tokens);
  Add(&preemptions_, finished.preemptions);
  if (finished.first_token_ratio > 0) {
    first_token_ratio_.Observe(finished.first_token_ratio);
  }
  if (finished.end_ratio > 0) end_ratio_.Observe(finished.end_ratio);
  OnAttention(finished.attention);
}

void Metrics::CountAttention(const std::array<AttentionStats, kAttentionModes>& attention,
                             const PhaseCounters& phase) {
  for (size_t mode = 0; mode < attention.size(); ++mode) {
    const AttentionWork& work = attention[mode].work;
    const AttentionCounters& counters = phase.modes[mode];
    Add(counters.flops, 2 * work.executed_macs());
    Add(phase.dense_flops, 2 * work.dense_macs);
    Add(phase.kv_bytes, work.executed_bytes());
    Add(phase.dense_kv_bytes, work.dense_bytes);
    Add(counters.macs[0], work.attention_macs);
    Add(counters.macs[1], work.selection_macs);
    Add(counters.macs[2], work.statistics_macs);
    Add(counters.macs[3], work.audit_macs);
    const double selection = attention[mode].selection_seconds;
    if (selection > 0) selection_seconds_.Increment(selection);
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
    fallback_max_error_.Increment();
  } else if (sparse_asked && all.sparse_rows == 0) {
    fallback_short_text_.Increment();
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

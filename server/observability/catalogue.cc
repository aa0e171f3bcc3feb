#include "server/observability/catalogue.h"

#include <utility>

#include "core/base/check.h"
#include "server/method.h"

namespace quire::server {
namespace {

using Buckets = std::vector<double>;
using Labels = std::vector<MetricLabel>;

// Rows are added in the order of enum Metric.
class Table {
 public:
  using Text = const char*;
  MetricDeclaration& Counter(Metric metric, Text name, Text unit, Text help,
                             Labels labels = {}) {
    return Add(metric, name, prometheus::MetricType::Counter, unit, help,
               std::move(labels));
  }
  MetricDeclaration& Gauge(Metric metric, Text name, Text unit, Text help,
                           Labels labels = {}) {
    return Add(metric, name, prometheus::MetricType::Gauge, unit, help,
               std::move(labels));
  }
  MetricDeclaration& Histogram(Metric metric, Text name, Text unit, Text help,
                               Buckets buckets, Labels labels = {}) {
    MetricDeclaration& added = Add(metric, name, prometheus::MetricType::Histogram, unit,
                                   help, std::move(labels));
    added.buckets = std::move(buckets);
    return added;
  }
  const std::vector<MetricDeclaration>& rows() const { return rows_; }

 private:
  MetricDeclaration& Add(Metric metric, Text name, prometheus::MetricType type, Text unit,
                         Text help, Labels labels) {
    QUIRE_CHECK(metric == static_cast<Metric>(rows_.size()));
    return rows_.emplace_back(
        MetricDeclaration{metric, name, type, unit, help, std::move(labels), {}});
  }
  std::vector<MetricDeclaration> rows_;
};

// ----------------------------------------------------------------------------- buckets

// Seconds. A long document on a small machine takes half an hour.
Buckets WaitBuckets() {
  return {0.01, 0.03, 0.1, 0.3, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 900, 1800};
}
// The same, coarser: of every method and code.
Buckets CallBuckets() { return {0.01, 0.05, 0.25, 1, 2.5, 10, 30, 60, 300, 900, 1800}; }
Buckets TokenBuckets() {
  return {0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.15, 0.3, 0.6, 1.2, 2.5, 5};
}
// Shares of dense attention's columns.
Buckets DensityBuckets() {
  return {0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1};
}
// Relative errors.
Buckets ErrorBuckets() {
  return {0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1};
}
// Real over estimated.
Buckets RatioBuckets() {
  return {0.1, 0.25, 0.5, 0.67, 0.8, 0.9, 1, 1.1, 1.25, 1.5, 2, 4, 10};
}
Buckets SpeedupBuckets() {
  return {0.25, 0.5, 0.67, 0.8, 0.9, 1, 1.1, 1.25, 1.5, 2, 3, 4, 6, 8, 12, 16};
}
Buckets LogprobBuckets() {
  return {0.0001, 0.0003, 0.001, 0.003, 0.01, 0.02, 0.03, 0.05, 0.1, 0.3, 1};
}
Buckets SequenceBuckets() { return {1, 2, 4, 8, 16, 32, 64, 128, 256, 512}; }

// ------------------------------------------------------------------------------ labels

std::vector<std::string> MethodValues() {
  std::vector<std::string> values;
  for (int i = 0; i <= static_cast<int>(Method::kGetLoad); ++i) {
    values.emplace_back(MethodName(static_cast<Method>(i)));
  }
  return values;
}

MetricLabel Phase() { return {"phase", {"prefill", "decode"}, ""}; }
MetricLabel Mode() { return {"mode", {"auto", "dense", "faithful", "refined"}, ""}; }
MetricLabel Stage() { return {"stage", {"queue", "prefill", "decode"}, ""}; }
MetricLabel Basis() { return {"basis", {"measured", "modelled"}, ""}; }
MetricLabel Context() {
  return {"context", {"le_1024", "le_4096", "le_16384", "le_65536", "more"}, ""};
}
MetricLabel Model() {
  return {"model", {}, "the loaded models' folders, each cut to 64 bytes"};
}

// ------------------------------------------------------------------------------- table

void AddCalls(Table& t) {
  t.Histogram(Metric::kRequestSeconds, "quire_request_seconds", "seconds",
              "Calls from arrival to their end, by method and gRPC code.", CallBuckets(),
              {{"method", MethodValues(), ""}, {"code", CodeValues(), ""}})
      .present = false;
  t.Histogram(Metric::kTimeToFirstToken, "quire_time_to_first_token_seconds", "seconds",
              "From a call's arrival to its first token.", WaitBuckets(),
              {{"method", {"Summarize", "Generate"}, ""}});
  t.Histogram(Metric::kInterTokenLatency, "quire_inter_token_latency_seconds", "seconds",
              "From one token of an answer to the next, as the engine makes them.",
              TokenBuckets());
  t.Histogram(Metric::kQueueSeconds, "quire_queue_seconds", "seconds",
              "Calls' waiting for the engine, all passes together.", WaitBuckets());
  t.Counter(Metric::kRejections, "quire_admission_rejections_total", "calls",
            "Calls that were refused before any work, by reason.",
            {{"reason",
              {"loading", "draining", "waiting_room_full", "deadline_unreachable",
               "request_too_large"},
              ""}});
  t.Counter(Metric::kWouldRefuse, "quire_would_refuse_total", "requests",
            "Requests that admission=report let in and enforce would not.");
  t.Counter(Metric::kCancelled, "quire_cancelled_total", "calls",
            "Calls cancelled or out of time, by what they were doing.", {Stage()});
}

void AddTokens(Table& t) {
  t.Counter(Metric::kPromptTokens, "quire_prompt_tokens_total", "tokens",
            "Prompt tokens that were computed.");
  t.Counter(Metric::kGeneratedTokens, "quire_generated_tokens_total", "tokens",
            "Tokens that were chosen.");
  t.Counter(Metric::kCachedTokens, "quire_prefix_cached_tokens_total", "tokens",
            "Prompt tokens that were found in the cache instead.");
  t.Counter(Metric::kRecomputedTokens, "quire_recomputed_tokens_total", "tokens",
            "Tokens that were computed again after a preemption.");
  t.Counter(Metric::kWastedTokens, "quire_wasted_tokens_total", "tokens",
            "Tokens computed for answers that nobody got, by what the request was "
            "doing when it ended.",
            {Stage()});
  t.Counter(Metric::kTenantTokens, "quire_tenant_tokens_total", "tokens",
            "Tokens of finished requests: prompt tokens computed, those found in the "
            "cache, tokens generated; by tenant, \"\" without a name.",
            {{"tenant",
              {},
              "the first 20 tenants that came, each cut to 64 bytes; \"other\" for all "
              "others"},
             {"kind", {"prompt", "cached", "generated"}, ""}});
}

void AddLoad(Table& t) {
  const auto add = [&](Metric metric, const char* name, const char* unit,
                       const char* help) {
    t.Gauge(metric, name, unit, help, {Model()});
  };
  add(Metric::kRequestsRunning, "quire_requests_running", "requests",
      "Requests in work.");
  add(Metric::kRequestsWaiting, "quire_requests_waiting", "requests",
      "Requests that wait.");
  add(Metric::kWaitingTokens, "quire_waiting_tokens", "tokens",
      "Prompt tokens of the waiting requests.");
  add(Metric::kKvCacheUsage, "quire_kv_cache_usage_ratio", "share of 1",
      "Share of the key/value cache in use by requests in work.");
  add(Metric::kKvCacheCached, "quire_kv_cache_cached_ratio", "share of 1",
      "Share of the key/value cache that is free but holds what later requests may begin "
      "with.");
  add(Metric::kPrefillBacklog, "quire_prefill_backlog_seconds", "seconds",
      "Until all accepted prompts are read, estimated.");
  add(Metric::kTenants, "quire_tenants", "tenants", "Tenants that have requests.");
}

void AddEngine(Table& t) {
  t.Histogram(Metric::kStepSeconds, "quire_engine_step_seconds", "seconds",
              "Steps of the engine.", TokenBuckets());
  t.Histogram(Metric::kBatchSequences, "quire_batch_sequences", "requests",
              "Requests that a step of the engine computed.", SequenceBuckets());
  t.Counter(Metric::kDeviceSeconds, "quire_gpu_seconds_total", "seconds",
            "Time of the engine's steps on the GPU (without one: on the CPU), divided "
            "by what each request was expected to cost.",
            {Phase(), Mode()});
  t.Counter(Metric::kPreemptions, "quire_preemptions_total", "requests",
            "Requests that gave their place up and began again.");
  t.Histogram(Metric::kEstimateErrorRatio, "quire_estimate_error_ratio", "ratio",
              "Real over estimated time until an event, as estimated when the request "
              "came.",
              RatioBuckets(), {{"event", {"first_token", "end"}, ""}});
}

void AddWork(Table& t) {
  t.Counter(Metric::kAttentionFlops, "quire_attention_flops_total", "flops",
            "Two for each multiply-add of attention, all parts.", {Phase(), Mode()});
  t.Counter(Metric::kAttentionFlopsDense, "quire_attention_flops_dense_equivalent_total",
            "flops", "What dense attention of the same tokens takes.", {Phase()});
  t.Counter(
      Metric::kAttentionMacs, "quire_attention_macs_total", "multiply-adds",
      "Multiply-adds of attention, by what they were for.",
      {Phase(), Mode(), {"part", {"attention", "selection", "statistics", "audit"}, ""}});
  t.Counter(Metric::kModelFlops, "quire_model_flops_total", "flops",
            "Two for each multiply-add: attention's reading of keys and values; "
            "selection, statistics and audits; MLPs; the head; the other linear layers "
            "(queries, keys, values, output).",
            {{"part", {"attention", "selection", "mlp", "lm_head", "other"}, ""}});
  t.Counter(Metric::kKvBytes, "quire_kv_bytes_read_total", "bytes",
            "Keys, values and group data that attention fetched.", {Phase()});
  t.Counter(Metric::kKvBytesDense, "quire_kv_bytes_read_dense_equivalent_total", "bytes",
            "What dense attention of the same tokens fetches.", {Phase()});
  t.Counter(Metric::kSelectionSeconds, "quire_selection_seconds_total", "seconds",
            "Time of attention spent on choosing what to read.");
}

void AddColumns(Table& t) {
  t.Counter(Metric::kExpandedKeys, "quire_groups_expanded_total", "keys",
            "Far keys that sparse rows read one by one instead of in an estimate, each "
            "for one query head.");
  t.Counter(Metric::kAttentionColumns, "quire_attention_columns_total", "keys",
            "Keys that requests read, each for one query head of one layer; counted at "
            "a request's end, by its length in tokens.",
            {Context()});
  t.Counter(Metric::kAttentionColumnsDense,
            "quire_attention_columns_dense_equivalent_total", "keys",
            "Keys that dense attention of the same requests reads.", {Context()});
  t.Histogram(Metric::kAttentionDensity, "quire_attention_density_ratio", "share of 1",
              "Keys that a request read, of those dense attention reads.",
              DensityBuckets());
}

void AddSavings(Table& t) {
  t.Counter(Metric::kRequestDeviceSeconds, "quire_request_device_seconds_total",
            "seconds",
            "Device time of requests that ended well or were broken off while they "
            "answered, by where dense attention's time is known from.",
            {Basis()});
  t.Counter(Metric::kRequestDenseDeviceSeconds,
            "quire_request_dense_device_seconds_total", "seconds",
            "What the same requests took with dense attention (measured) or would have "
            "taken (modelled).",
            {Basis()});
  const auto add = [&](Metric metric, const char* name, const char* help) {
    t.Counter(metric, name, "USD", help);
  };
  add(Metric::kMeasuredSavings, "quire_measured_savings_usd_total",
      "Saved by requests that were computed densely too and took longer so.");
  add(Metric::kMeasuredLosses, "quire_measured_losses_usd_total",
      "Lost by requests that were computed densely too and took less so.");
  add(Metric::kEstimatedSavings, "quire_estimated_savings_usd_total",
      "Saved by the other requests, by the model of dense attention's time.");
  add(Metric::kEstimatedLosses, "quire_estimated_losses_usd_total",
      "Lost by the other requests, by the model of dense attention's time.");
  t.Gauge(Metric::kDeviceHourPrice, "quire_device_hour_price_usd", "USD",
          "Price of an hour of device time that money is counted at; 0: not set.");
}

void AddQuality(Table& t) {
  t.Histogram(Metric::kAttentionError, "quire_attention_error", "ratio",
              "Mean relative error of a request's attention outputs, of those that were "
              "audited.",
              ErrorBuckets());
  t.Counter(Metric::kDenseFallback, "quire_dense_fallback_total", "requests",
            "Requests for sparse attention that were or went dense, by reason.",
            {{"reason", {"max_error", "short_text"}, ""}});
}

void AddShadows(Table& t) {
  t.Counter(Metric::kShadowSamples, "quire_shadow_samples_total", "requests",
            "Requests that were computed again with dense attention, to measure.");
  t.Counter(Metric::kShadowSkipped, "quire_shadow_skipped_total", "requests",
            "Requests that were chosen to be measured and were not, by reason.",
            {{"reason", {"busy", "budget", "aborted", "failed", "too_large"}, ""}});
  t.Histogram(Metric::kShadowSpeedup, "quire_shadow_speedup_ratio", "ratio",
              "Device time with dense attention over the request's own.",
              SpeedupBuckets());
  t.Histogram(Metric::kShadowLogprobDelta, "quire_shadow_logprob_abs_delta", "nats",
              "Mean absolute difference of the tokens' log probabilities from dense "
              "attention's, of a request.",
              LogprobBuckets());
  t.Counter(Metric::kShadowComparedTokens, "quire_shadow_compared_tokens_total", "tokens",
            "Tokens whose log probabilities were compared.");
  t.Counter(Metric::kShadowMismatches, "quire_shadow_top1_mismatch_total", "tokens",
            "Of these, those where dense attention makes another token the most "
            "probable.");
  t.Counter(Metric::kShadowDeviceSeconds, "quire_shadow_device_seconds_total", "seconds",
            "Device time spent on computing requests again; no user's.");
}

void AddInfo(Table& t) {
  t.Gauge(Metric::kBuildInfo, "quire_build_info", "1", "Always 1; what this server is.",
          {{"version", {}, "one"}});
  t.Gauge(Metric::kModelInfo, "quire_model_info", "1", "Always 1; the loaded models.",
          {Model(),
           {"architecture", {"llama", "mistral", "qwen2", "qwen3"}, ""},
           {"compute_type", {"float32", "bfloat16"}, ""}})
      .present = false;
}

void AddProcess(Table& t) {
  t.Counter(Metric::kProcessCpuSeconds, "process_cpu_seconds_total", "seconds",
            "User and system CPU time.");
  t.Gauge(Metric::kProcessStartTime, "process_start_time_seconds", "seconds",
          "Start, Unix time.");
  t.Gauge(Metric::kProcessVirtualMemory, "process_virtual_memory_bytes", "bytes",
          "Virtual memory.");
  t.Gauge(Metric::kProcessResidentMemory, "process_resident_memory_bytes", "bytes",
          "Resident memory.");
  t.Gauge(Metric::kProcessOpenFds, "process_open_fds", "files", "Open files.");
  t.Gauge(Metric::kProcessMaxFds, "process_max_fds", "files", "Most open files.");
}

std::vector<MetricDeclaration> MakeRows() {
  Table table;
  for (const auto add : {AddCalls, AddTokens, AddLoad, AddEngine, AddWork, AddColumns,
                         AddSavings, AddQuality, AddShadows, AddInfo, AddProcess}) {
    add(table);
  }
  QUIRE_CHECK(table.rows().size() == static_cast<size_t>(kMetrics));
  return table.rows();
}

}  // namespace

const MetricDeclaration& Declaration(Metric metric) {
  static const auto& rows = *new std::vector<MetricDeclaration>(MakeRows());
  return rows[static_cast<size_t>(metric)];
}

const std::vector<std::string>& CodeValues() {
  static const auto& values = *new std::vector<std::string>{
      "OK",        "CANCELLED",          "INVALID_ARGUMENT",    "DEADLINE_EXCEEDED",
      "NOT_FOUND", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "UNIMPLEMENTED",
      "ABORTED",   "INTERNAL",           "UNAVAILABLE",         "OTHER"};
  return values;
}

}  // namespace quire::server

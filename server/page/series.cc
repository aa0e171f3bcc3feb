#include "server/page/series.h"

#include <algorithm>
#include <cmath>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "prometheus/client_metric.h"
#include "prometheus/metric_family.h"

namespace quire::server {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;

enum class Join : uint8_t { kSum, kMax };

// What the page shows of a metric.
struct Shown {
  absl::string_view by = {};  // the label that is told apart; "": none
  Join join = Join::kSum;
  bool count_only = false;  // of a histogram, no buckets
};

const absl::flat_hash_map<absl::string_view, Shown>& ShownMetrics() {
  static const auto& shown = *new absl::flat_hash_map<absl::string_view, Shown>{
      {"process_start_time_seconds", {.join = Join::kMax}},
      {"process_resident_memory_bytes", {}},
      {"quire_attention_columns_dense_equivalent_total", {.by = "context"}},
      {"quire_attention_columns_total", {.by = "context"}},
      {"quire_attention_error", {}},
      {"quire_attention_flops_dense_equivalent_total", {}},
      {"quire_attention_flops_total", {}},
      {"quire_dense_fallback_total", {.by = "reason"}},
      {"quire_device_hour_price_usd", {.join = Join::kMax}},
      {"quire_estimated_losses_usd_total", {}},
      {"quire_estimated_savings_usd_total", {}},
      {"quire_generated_tokens_total", {}},
      {"quire_gpu_seconds_total", {.by = "phase"}},
      {"quire_inter_token_latency_seconds", {}},
      {"quire_kv_bytes_read_dense_equivalent_total", {}},
      {"quire_kv_bytes_read_total", {}},
      {"quire_kv_cache_cached_ratio", {.join = Join::kMax}},
      {"quire_kv_cache_usage_ratio", {.join = Join::kMax}},
      {"quire_measured_losses_usd_total", {}},
      {"quire_measured_savings_usd_total", {}},
      {"quire_prefill_backlog_seconds", {.join = Join::kMax}},
      {"quire_prefix_cached_tokens_total", {}},
      {"quire_prompt_tokens_total", {}},
      {"quire_request_dense_device_seconds_total", {.by = "basis"}},
      {"quire_request_device_seconds_total", {.by = "basis"}},
      {"quire_request_seconds", {.by = "code", .count_only = true}},
      {"quire_requests_running", {}},
      {"quire_requests_waiting", {}},
      {"quire_shadow_compared_tokens_total", {}},
      {"quire_shadow_device_seconds_total", {}},
      {"quire_shadow_logprob_abs_delta", {}},
      {"quire_shadow_samples_total", {}},
      {"quire_shadow_skipped_total", {.by = "reason"}},
      {"quire_shadow_speedup_ratio", {}},
      {"quire_shadow_top1_mismatch_total", {}},
      {"quire_time_to_first_token_seconds", {}},
      {"quire_waiting_tokens", {}},
  };
  return shown;
}

// As Prometheus' text format writes it.
std::string BoundName(double bound) {
  return std::isinf(bound) ? "+Inf" : absl::StrCat(bound);
}

std::string Labelled(absl::string_view name, absl::string_view label,
                     absl::string_view value) {
  return absl::StrCat(name, "{", label, "=\"", value, "\"}");
}

std::string ValueOf(const ClientMetric& metric, absl::string_view label) {
  for (const ClientMetric::Label& own : metric.label) {
    if (own.name == label) return own.value;
  }
  return "";
}

// Series of one metric, joined.
class Joined {
 public:
  Joined(Join join, Sample& sample) : join_(join), sample_(sample) {}
  void Add(std::string series, double value) {
    const auto [at, is_new] = places_.try_emplace(series, sample_.size());
    if (is_new) {
      sample_.emplace_back(std::move(series), value);
      return;
    }
    double& sum = sample_[at->second].second;
    sum = join_ == Join::kSum ? sum + value : std::max(sum, value);
  }

 private:
  const Join join_;
  Sample& sample_;
  absl::flat_hash_map<std::string, size_t> places_;
};

void AddHistogram(const std::string& name, const ClientMetric::Histogram& histogram,
                  Joined& joined) {
  for (const ClientMetric::Bucket& bucket : histogram.bucket) {
    joined.Add(Labelled(name + "_bucket", "le", BoundName(bucket.upper_bound)),
               static_cast<double>(bucket.cumulative_count));
  }
  joined.Add(name + "_sum", histogram.sample_sum);
  joined.Add(name + "_count", static_cast<double>(histogram.sample_count));
}

void AddFamily(const MetricFamily& family, const Shown& shown, Sample& sample) {
  Joined joined(shown.join, sample);
  const bool histogram = family.type == MetricType::Histogram;
  const std::string name =
      histogram && shown.count_only ? family.name + "_count" : family.name;
  for (const ClientMetric& metric : family.metric) {
    if (histogram && !shown.count_only) {
      AddHistogram(name, metric.histogram, joined);
      continue;
    }
    const double value = histogram
                             ? static_cast<double>(metric.histogram.sample_count)
                             : (family.type == MetricType::Counter ? metric.counter.value
                                                                   : metric.gauge.value);
    joined.Add(
        shown.by.empty() ? name : Labelled(name, shown.by, ValueOf(metric, shown.by)),
        value);
  }
}

}  // namespace

Sample TakeSample(const std::vector<const prometheus::Collectable*>& sources) {
  Sample sample;
  for (const prometheus::Collectable* source : sources) {
    for (const MetricFamily& family : source->Collect()) {
      const auto found = ShownMetrics().find(family.name);
      if (found != ShownMetrics().end()) AddFamily(family, found->second, sample);
    }
  }
  return sample;
}

}  // namespace quire::server

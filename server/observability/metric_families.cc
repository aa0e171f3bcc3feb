#include "server/observability/metric_families.h"

#include <algorithm>

#include "prometheus/labels.h"

namespace quire::server {
namespace {

using prometheus::Counter;
using prometheus::Gauge;
using prometheus::Histogram;
using prometheus::MetricType;

// What EngineCollector and ProcessCollector tell.
bool IsCollected(Metric metric) {
  return (metric >= Metric::kRequestsRunning && metric <= Metric::kTenants) ||
         metric >= Metric::kProcessCpuSeconds;
}

prometheus::Labels LabelsOf(Metric metric, const MetricFamilies::Values& values) {
  const std::vector<MetricLabel>& declared = Declaration(metric).labels;
  QUIRE_CHECK(values.size() == declared.size());
  prometheus::Labels labels;
  for (size_t i = 0; i < declared.size(); ++i) {
    const std::vector<std::string>& all = declared[i].values;
    QUIRE_CHECK(all.empty() || std::count(all.begin(), all.end(), values[i]) == 1);
    labels.emplace(declared[i].name, values[i]);
  }
  return labels;
}

// Every combination of the labels' values; none if one of them is not fixed.
std::vector<MetricFamilies::Values> Combinations(const std::vector<MetricLabel>& labels) {
  std::vector<MetricFamilies::Values> all = {{}};
  for (const MetricLabel& label : labels) {
    std::vector<MetricFamilies::Values> longer;
    for (const MetricFamilies::Values& values : all) {
      for (const std::string& value : label.values) {
        longer.push_back(values);
        longer.back().push_back(value);
      }
    }
    all = std::move(longer);
  }
  return all;
}

}  // namespace

MetricFamilies::MetricFamilies(prometheus::Registry& registry) {
  for (int i = 0; i < kMetrics; ++i) {
    const auto metric = static_cast<Metric>(i);
    if (IsCollected(metric)) continue;
    const MetricDeclaration& d = Declaration(metric);
    const auto add = [&](auto builder) {
      families_[static_cast<size_t>(i)] =
          &builder.Name(d.name).Help(d.help).Register(registry);
    };
    if (d.type == MetricType::Counter) add(prometheus::BuildCounter());
    if (d.type == MetricType::Gauge) add(prometheus::BuildGauge());
    if (d.type == MetricType::Histogram) add(prometheus::BuildHistogram());
    if (d.present) AddSeries(metric);
  }
}

void MetricFamilies::AddSeries(Metric metric) const {
  const MetricDeclaration& d = Declaration(metric);
  for (const Values& values : Combinations(d.labels)) {
    if (d.type == MetricType::Counter) counter(metric, values);
    if (d.type == MetricType::Gauge) gauge(metric, values);
    if (d.type == MetricType::Histogram) histogram(metric, values);
  }
}

Counter& MetricFamilies::counter(Metric metric, const Values& values) const {
  return std::get<prometheus::Family<Counter>*>(families_[static_cast<size_t>(metric)])
      ->Add(LabelsOf(metric, values));
}

Gauge& MetricFamilies::gauge(Metric metric, const Values& values) const {
  return std::get<prometheus::Family<Gauge>*>(families_[static_cast<size_t>(metric)])
      ->Add(LabelsOf(metric, values));
}

Histogram& MetricFamilies::histogram(Metric metric, const Values& values) const {
  return std::get<prometheus::Family<Histogram>*>(families_[static_cast<size_t>(metric)])
      ->Add(LabelsOf(metric, values), Declaration(metric).buckets);
}

}  // namespace quire::server

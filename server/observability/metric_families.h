#pragma once

#include <array>
#include <initializer_list>
#include <string>
#include <variant>
#include <vector>

#include "core/base/check.h"
#include "prometheus/counter.h"
#include "prometheus/family.h"
#include "prometheus/gauge.h"
#include "prometheus/histogram.h"
#include "prometheus/registry.h"
#include "server/observability/catalogue.h"

namespace quire::server {

// The catalogue's metrics in a registry, all but those that the collectors tell. A series
// is found by its label values in the order of the declaration; REQUIRES: as many as
// declared, each one of the declared values if these are fixed. Finding takes a lock and
// some look-ups: what is counted often keeps the reference, which stays valid.
// Thread-safe.
class MetricFamilies {
 public:
  using Values = std::vector<std::string>;

  // The registry must outlive this.
  explicit MetricFamilies(prometheus::Registry& registry);

  prometheus::Counter& counter(Metric metric, const Values& values = {}) const;
  prometheus::Gauge& gauge(Metric metric, const Values& values = {}) const;
  prometheus::Histogram& histogram(Metric metric, const Values& values = {}) const;

  // The counters of all values of the last label, in their order, after `first` ones.
  template <size_t kValues>
  std::array<prometheus::Counter*, kValues> counters(Metric metric,
                                                     const Values& first = {}) const {
    const std::vector<std::string>& last = Declaration(metric).labels.back().values;
    QUIRE_CHECK(last.size() == kValues);
    std::array<prometheus::Counter*, kValues> found;
    for (size_t i = 0; i < kValues; ++i) {
      Values values = first;
      values.push_back(last[i]);
      found[i] = &counter(metric, values);
    }
    return found;
  }

 private:
  using Family = std::variant<std::monostate, prometheus::Family<prometheus::Counter>*,
                              prometheus::Family<prometheus::Gauge>*,
                              prometheus::Family<prometheus::Histogram>*>;
  void AddSeries(Metric metric) const;
  std::array<Family, kMetrics> families_;
};

}  // namespace quire::server

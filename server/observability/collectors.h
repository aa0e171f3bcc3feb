#pragma once

#include <vector>

#include "prometheus/collectable.h"
#include "server/rpc/serving_state.h"

namespace quire::server {

// What the engines are doing, read off when the page is asked for; one series a model.
// Nothing while the models are loading. Thread-safe.
class EngineCollector final : public prometheus::Collectable {
 public:
  // The state must outlive this.
  explicit EngineCollector(const ServingState& state) : state_(state) {}
  std::vector<prometheus::MetricFamily> Collect() const override;

 private:
  const ServingState& state_;
};

// Memory, CPU time, open files and start of this process, under the names that every
// Prometheus client uses; from /proc/self. Values that cannot be read are left out.
// Thread-safe.
class ProcessCollector final : public prometheus::Collectable {
 public:
  std::vector<prometheus::MetricFamily> Collect() const override;
};

}  // namespace quire::server

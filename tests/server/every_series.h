#pragma once

#include <string>
#include <vector>

#include "prometheus/collectable.h"
#include "prometheus/registry.h"
#include "server/observability/collectors.h"
#include "server/observability/metrics.h"

namespace quire::server {

// Has Metrics count something in every series that there can be: all methods with all
// codes, 20 tenants with names of 64 bytes and others, two models.
void FillEverySeries(Metrics& metrics);

// Two models' engine gauges with names of 64 bytes, without engines.
class FakeEngineGauges final : public prometheus::Collectable {
 public:
  std::vector<prometheus::MetricFamily> Collect() const override;
};

// The page of /metrics then.
std::string PageWithEverySeries();

}  // namespace quire::server

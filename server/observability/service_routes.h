#pragma once

#include <vector>

#include "prometheus/collectable.h"
#include "server/observability/http_endpoint.h"
#include "server/rpc/serving_state.h"

namespace quire::server {

// What machines read. The routes are thread-safe; what they are given must outlive them.

// /metrics: all sources in Prometheus' text format, without families that have no series.
HttpRoute MetricsRoute(std::vector<const prometheus::Collectable*> sources);

// /healthz: 200 "ok" while serving; 503 "loading" or "draining" else.
HttpRoute HealthRoute(const ServingState& state);

}  // namespace quire::server

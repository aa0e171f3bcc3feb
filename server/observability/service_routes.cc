#include "server/observability/service_routes.h"

#include <string>
#include <utility>

#include "core/base/check.h"
#include "prometheus/metric_family.h"
#include "prometheus/text_serializer.h"

namespace quire::server {
namespace {

constexpr char kPrometheus[] = "text/plain; version=0.0.4; charset=utf-8";

std::string MetricsPage(const std::vector<const prometheus::Collectable*>& sources) {
  std::vector<prometheus::MetricFamily> families;
  for (const prometheus::Collectable* source : sources) {
    for (prometheus::MetricFamily& family : source->Collect()) {
      // A family without series yet is no part of the format.
      if (!family.metric.empty()) families.push_back(std::move(family));
    }
  }
  return prometheus::TextSerializer().Serialize(families);
}

HttpResponse Health(ServingState::Phase phase) {
  switch (phase) {
    case ServingState::Phase::kServing:
      return PlainText(200, "ok\n");
    case ServingState::Phase::kLoading:
      return PlainText(503, "loading\n");
    case ServingState::Phase::kDraining:
      return PlainText(503, "draining\n");
  }
  QUIRE_CHECK(false);
}

}  // namespace

HttpRoute MetricsRoute(std::vector<const prometheus::Collectable*> sources) {
  return {.path = "/metrics",
          .prefix = false,
          .handle = [sources = std::move(sources)](const HttpRequest&) {
            return HttpResponse{.status = 200,
                                .content_type = kPrometheus,
                                .body = MetricsPage(sources),
                                .headers = {}};
          }};
}

HttpRoute HealthRoute(const ServingState& state) {
  return {.path = "/healthz", .prefix = false, .handle = [&state](const HttpRequest&) {
            return Health(state.phase());
          }};
}

}  // namespace quire::server

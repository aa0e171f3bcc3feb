#include "tests/server/every_series.h"

#include "absl/strings/str_cat.h"
#include "server/observability/service_routes.h"

namespace quire::server {
namespace {

// Of 64 bytes.
std::string LongName(int number) {
  const std::string end = absl::StrCat("-", number);
  return std::string(kMaxLabelBytes - end.size(), 'n') + end;
}

}  // namespace

void FillEverySeries(Metrics& metrics) {
  for (int method = 0; method <= static_cast<int>(Method::kGetLoad); ++method) {
    for (int code = 0; code <= 16; ++code) {
      metrics.OnCall(static_cast<Method>(method), static_cast<absl::StatusCode>(code),
                     absl::Milliseconds(1234));
    }
  }
  const AttentionReceipt receipt;
  for (int tenant = 0; tenant < 30; ++tenant) {
    metrics.OnFinished({.usage = {.prompt_tokens = 123456789, .generated_tokens = 777},
                        .attention = receipt,
                        .tenant = LongName(tenant)});
  }
  for (int model = 0; model < 2; ++model) {
    metrics.OnModel(LongName(model), "llama", "bfloat16");
  }
}

std::vector<prometheus::MetricFamily> FakeEngineGauges::Collect() const {
  std::vector<prometheus::MetricFamily> families;
  for (auto i = static_cast<int>(Metric::kRequestsRunning);
       i <= static_cast<int>(Metric::kTenants); ++i) {
    const MetricDeclaration& declared = Declaration(static_cast<Metric>(i));
    prometheus::MetricFamily family{declared.name, declared.help, declared.type, {}};
    for (int model = 0; model < 2; ++model) {
      prometheus::ClientMetric& metric = family.metric.emplace_back();
      metric.label = {{"model", LongName(model)}};
      metric.gauge.value = 0.123456789;
    }
    families.push_back(std::move(family));
  }
  return families;
}

std::string PageWithEverySeries() {
  prometheus::Registry registry;
  Metrics metrics(registry);
  FillEverySeries(metrics);
  const FakeEngineGauges engines;
  const ProcessCollector process;
  return MetricsRoute({&registry, &engines, &process}).handle({}).body;
}

}  // namespace quire::server

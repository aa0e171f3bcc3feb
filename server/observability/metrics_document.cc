#include "server/observability/metrics_document.h"

#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "server/observability/catalogue.h"

namespace quire::server {
namespace {

constexpr char kIntroduction[] =
    R"(<!-- Made by quire_metrics_doc from server/observability/catalogue.cc; a test compares. -->
# Metrics

`GET /metrics` on the HTTP port (option `http_listen`) answers in Prometheus' text format. Every
metric is listed here with all the values that its labels can have; all count from the server's
start.

* Saved work is left to the query, so that both sides can be checked on their own; they sum up the
  same integers as the receipts of requests:

      1 - sum(rate(quire_attention_flops_total[5m]))
          / sum(rate(quire_attention_flops_dense_equivalent_total[5m]))

* Saved time and money are `measured` where a request was computed densely too (a shadow) and
  `modelled` elsewhere; the two are never added up here. Saved minus lost is the net.
* What shadows compute counts in `quire_shadow_device_seconds_total` and in nothing else.
* Text that others choose (names of tenants and models) is valid UTF-8 in a label: bytes that are
  not, control characters, quotes, backslashes and `%` stand as `%XX`.

)";

const char* TypeName(prometheus::MetricType type) {
  switch (type) {
    case prometheus::MetricType::Counter:
      return "counter";
    case prometheus::MetricType::Histogram:
      return "histogram";
    default:
      return "gauge";
  }
}

std::string Code(const std::string& text) { return absl::StrCat("`", text, "`"); }

std::string LabelText(const MetricLabel& label) {
  if (label.values.empty()) return absl::StrCat(Code(label.name), ": ", label.bound);
  return absl::StrCat(Code(label.name), ": ", absl::StrJoin(label.values, ", "));
}

std::string Row(const MetricDeclaration& declared) {
  std::vector<std::string> labels;
  for (const MetricLabel& label : declared.labels) labels.push_back(LabelText(label));
  return absl::StrCat("| ", Code(declared.name), " | ", TypeName(declared.type), " | ",
                      declared.unit, " | ", absl::StrJoin(labels, "<br>"), " | ",
                      declared.help, " |\n");
}

// The heading that begins with this metric, or "".
const char* HeadingOf(Metric metric) {
  switch (metric) {
    case Metric::kRequestSeconds:
      return "Calls";
    case Metric::kPromptTokens:
      return "Tokens";
    case Metric::kRequestsRunning:
      return "Load";
    case Metric::kStepSeconds:
      return "Engine";
    case Metric::kAttentionFlops:
      return "Work, beside what dense attention takes";
    case Metric::kRequestDeviceSeconds:
      return "Savings";
    case Metric::kAttentionError:
      return "Quality";
    case Metric::kBuildInfo:
      return "What is running";
    case Metric::kProcessCpuSeconds:
      return "The process";
    default:
      return "";
  }
}

std::string BucketTable() {
  std::string table =
      "## Buckets\n\nUpper bounds (`le`) of the histograms; `+Inf` stands last in "
      "each.\n\n"
      "| histogram | bounds |\n|---|---|\n";
  for (int i = 0; i < kMetrics; ++i) {
    const MetricDeclaration& declared = Declaration(static_cast<Metric>(i));
    if (declared.buckets.empty()) continue;
    absl::StrAppend(&table, "| ", Code(declared.name), " | ",
                    absl::StrJoin(declared.buckets, ", "), " |\n");
  }
  return table;
}

}  // namespace

std::string MetricsDocument() {
  std::string text = kIntroduction;
  for (int i = 0; i < kMetrics; ++i) {
    const std::string heading = HeadingOf(static_cast<Metric>(i));
    if (!heading.empty()) {
      absl::StrAppend(&text, i == 0 ? "" : "\n", "## ", heading,
                      "\n\n| name | type | unit | labels | |\n|---|---|---|---|---|\n");
    }
    absl::StrAppend(&text, Row(Declaration(static_cast<Metric>(i))));
  }
  return absl::StrCat(text, "\n", BucketTable());
}

}  // namespace quire::server

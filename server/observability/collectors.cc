#include "server/observability/collectors.h"

#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "prometheus/client_metric.h"
#include "prometheus/metric_family.h"
#include "server/observability/catalogue.h"
#include "server/observability/label_value.h"

namespace quire::server {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;

MetricFamily FamilyOf(Metric metric) {
  const MetricDeclaration& declared = Declaration(metric);
  return {declared.name, declared.help, declared.type, {}};
}

void AddValue(MetricFamily& family, double value,
              std::vector<ClientMetric::Label> labels = {}) {
  ClientMetric metric;
  metric.label = std::move(labels);
  if (family.type == MetricType::Counter) {
    metric.counter.value = value;
  } else {
    metric.gauge.value = value;
  }
  family.metric.push_back(std::move(metric));
}

double Share(int32_t blocks, const EngineStats& stats) {
  return stats.num_blocks == 0 ? 0 : static_cast<double>(blocks) / stats.num_blocks;
}

// A gauge of every model, read off its engine.
struct EngineGauge {
  Metric metric;
  double (*value)(const EngineStats&);
};

constexpr EngineGauge kEngineGauges[] = {
    {Metric::kRequestsRunning,
     [](const EngineStats& stats) -> double { return stats.running; }},
    {Metric::kRequestsWaiting,
     [](const EngineStats& stats) -> double { return stats.waiting; }},
    {Metric::kWaitingTokens,
     [](const EngineStats& stats) { return static_cast<double>(stats.waiting_tokens); }},
    {Metric::kKvCacheUsage,
     [](const EngineStats& stats) {
       return Share(stats.num_blocks - stats.free_blocks, stats);
     }},
    {Metric::kKvCacheCached,
     [](const EngineStats& stats) { return Share(stats.cached_blocks, stats); }},
    {Metric::kPrefillBacklog,
     [](const EngineStats& stats) {
       return absl::ToDoubleSeconds(stats.prefill_backlog);
     }},
    {Metric::kTenants, [](const EngineStats& stats) -> double { return stats.tenants; }},
};

// Fields of /proc/self/stat after the command's name, which may hold spaces.
std::vector<double> ReadStat() {
  std::ifstream file("/proc/self/stat");
  std::stringstream text;
  text << file.rdbuf();
  const std::string all = text.str();
  const size_t end = all.rfind(')');
  std::vector<double> numbers;
  if (end == std::string::npos) return numbers;
  const absl::string_view rest = absl::string_view(all).substr(end + 2);
  for (const absl::string_view word : absl::StrSplit(rest, ' ')) {
    double number = 0;
    if (!absl::SimpleAtod(word, &number)) number = 0;  // the state letter
    numbers.push_back(number);
  }
  return numbers;
}

// Unix seconds of the machine's start.
double BootTime() {
  timespec now{}, up{};
  clock_gettime(CLOCK_REALTIME, &now);
  clock_gettime(CLOCK_BOOTTIME, &up);
  return static_cast<double>(now.tv_sec - up.tv_sec) +
         static_cast<double>(now.tv_nsec - up.tv_nsec) * 1e-9;
}

double OpenFiles() {
  std::error_code error;
  double count = 0;
  for (std::filesystem::directory_iterator it("/proc/self/fd", error), end;
       !error && it != end; it.increment(error)) {
    ++count;
  }
  return count;
}

}  // namespace

std::vector<MetricFamily> EngineCollector::Collect() const {
  const ModelRegistry* registry = state_.models();
  if (registry == nullptr) return {};
  std::vector<MetricFamily> families;
  for (const EngineGauge& gauge : kEngineGauges) {
    families.push_back(FamilyOf(gauge.metric));
  }
  for (const auto& model : registry->models()) {
    const EngineStats stats = model->text.engine->stats();
    for (size_t i = 0; i < families.size(); ++i) {
      AddValue(families[i], kEngineGauges[i].value(stats),
               {{"model", LabelValue(model->text.name)}});
    }
  }
  return families;
}

std::vector<MetricFamily> ProcessCollector::Collect() const {
  std::vector<MetricFamily> families;
  const auto add = [&](Metric metric, double value) {
    AddValue(families.emplace_back(FamilyOf(metric)), value);
  };
  // Indices count from the process state, field 3 of proc(5).
  if (const std::vector<double> stat = ReadStat(); stat.size() > 21) {
    const double ticks = static_cast<double>(sysconf(_SC_CLK_TCK));
    const double page = static_cast<double>(sysconf(_SC_PAGESIZE));
    add(Metric::kProcessCpuSeconds, (stat[11] + stat[12]) / ticks);
    add(Metric::kProcessStartTime, BootTime() + stat[19] / ticks);
    add(Metric::kProcessVirtualMemory, stat[20]);
    add(Metric::kProcessResidentMemory, stat[21] * page);
  }
  add(Metric::kProcessOpenFds, OpenFiles());
  if (rlimit limit{}; getrlimit(RLIMIT_NOFILE, &limit) == 0) {
    add(Metric::kProcessMaxFds, static_cast<double>(limit.rlim_cur));
  }
  return families;
}

}  // namespace quire::server

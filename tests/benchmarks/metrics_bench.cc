// What being watched costs: a scrape with every series present (time and size), over
// loopback with a connection each as Prometheus' first one, and what an engine's step of
// 256 sequences adds by being counted, as a share of such a step.
//   metrics_bench [MODEL_FOLDER]
// With a model the step is one that it computes here (256 sequences of 64 tokens,
// decode); without, a step of 5 ms, shorter than any that was measured with so many
// sequences.
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "core/base/clock.h"
#include "core/runner/runner.h"
#include "server/observability/activity.h"
#include "server/observability/http_endpoint.h"
#include "server/observability/service_routes.h"
#include "tests/benchmarks/device_option.h"
#include "tests/server/every_series.h"
#include "tests/server/http_client.h"
#include "tests/support/quantile.h"

namespace quire::server {
namespace {

constexpr int kSequences = 256;
constexpr int kPromptTokens = 64;
constexpr double kShortStepSeconds = 0.005;

double Now() { return absl::ToDoubleSeconds(absl::Now() - absl::UnixEpoch()); }

// Seconds of each of so many runs.
std::vector<double> Measure(int runs, const std::function<void()>& run) {
  run();
  std::vector<double> seconds;
  for (int i = 0; i < runs; ++i) {
    const double start = Now();
    run();
    seconds.push_back(Now() - start);
  }
  return seconds;
}

std::string CpuName() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (line.rfind("model name", 0) == 0) return line.substr(line.find(':') + 2);
  }
  return "unknown processor";
}

const char* Verdict(bool pass) { return pass ? "pass" : "MISS"; }

// ------------------------------------------------------------------------------ scrape

void BenchScrape() {
  prometheus::Registry registry;
  Metrics metrics(registry);
  FillEverySeries(metrics);
  const FakeEngineGauges engines;
  const ProcessCollector process;
  const HttpRoute route = MetricsRoute({&registry, &engines, &process});
  const size_t bytes = route.handle({}).body.size();
  const std::vector<double> made = Measure(300, [&] { route.handle({}); });
  const auto endpoint = HttpEndpoint::Start("127.0.0.1:0", {route});
  if (!endpoint.ok()) std::exit(1);
  const std::vector<double> scraped =
      Measure(300, [&] { Ask((*endpoint)->address(), "GET", "/metrics"); });
  std::printf("page: %zu bytes, target 200000: %s\n", bytes, Verdict(bytes <= 200'000));
  std::printf("page made: median %.2f ms, 95th percentile %.2f ms\n",
              1e3 * Quantile(made, 0.5), 1e3 * Quantile(made, 0.95));
  std::printf(
      "scrape over loopback: median %.2f ms, 95th percentile %.2f ms, target 5 ms: %s\n",
      1e3 * Quantile(scraped, 0.5), 1e3 * Quantile(scraped, 0.95),
      Verdict(Quantile(scraped, 0.5) <= 5e-3));
}

// ---------------------------------------------------------------------- instrumentation

// A step in which 256 sequences of three modes decode.
StepReport FullStep(const std::vector<absl::Duration>& gaps) {
  StepReport step{.elapsed = absl::Milliseconds(25),
                  .sequences = kSequences,
                  .generated_tokens = kSequences,
                  .inter_token = gaps,
                  .rows = kSequences,
                  .head_rows = kSequences};
  for (const size_t mode : {0, 1, 3}) {
    AttentionWork& work = step.decode[mode].work;
    work = {.attention_macs = 123456789,
            .selection_macs = 2345678,
            .statistics_macs = 345678,
            .audit_macs = 45678,
            .dense_macs = 1234567890,
            .attention_bytes = 12345678,
            .selection_bytes = 1234567,
            .statistics_bytes = 123456,
            .audit_bytes = 12345,
            .dense_bytes = 123456789,
            .columns = 1234567,
            .dense_columns = 12345678};
    step.decode[mode].selection_seconds = 0.001;
    step.decode_time[mode] = absl::Milliseconds(8);
  }
  return step;
}

// Seconds that the server's observers take for a step, with the one answer of 256 tokens
// that ends and the one that begins in it.
double InstrumentationSeconds() {
  prometheus::Registry registry;
  Metrics metrics(registry);
  StepMetrics steps(metrics);
  Activity activity(steps, SystemClock());
  steps.SetModel({.num_layers = 30,
                  .hidden_size = 576,
                  .intermediate_size = 1536,
                  .num_heads = 9,
                  .num_kv_heads = 3,
                  .head_dim = 64,
                  .vocab_size = 49152});
  std::vector<absl::Duration> gaps(kSequences);
  for (size_t i = 0; i < gaps.size(); ++i) {
    gaps[i] = absl::Milliseconds(25) + absl::Microseconds(20 * i);
  }
  const StepReport step = FullStep(gaps);
  AttentionReceipt receipt{.mode = AttentionMode::kRefined};
  receipt.decode = step.decode[3];
  const FinishReport finished{.usage = {.prompt_tokens = 1000, .generated_tokens = 256},
                              .attention = receipt,
                              .first_token_ratio = 1,
                              .end_ratio = 1,
                              .tenant = "acme"};
  constexpr int kSteps = 200;
  const std::vector<double> seconds = Measure(100, [&] {
    for (int i = 0; i < kSteps; ++i) {
      activity.OnStep(step);
      activity.OnFinished(finished);
      metrics.OnFirstToken(Method::kGenerate, absl::Milliseconds(100));
      metrics.OnQueued(absl::Milliseconds(10));
      metrics.OnCall(Method::kGenerate, absl::StatusCode::kOk, absl::Seconds(7));
    }
  });
  return Quantile(seconds, 0.5) / kSteps;
}

// ------------------------------------------------------------------------------ a step

template <typename Value>
Value OrExit(absl::StatusOr<Value> value) {
  if (value.ok()) return *std::move(value);
  std::fprintf(stderr, "%s\n", value.status().ToString().c_str());
  std::exit(1);
}

// Decodes one token of each sequence, or reads their prompts.
void Step(LoadedRunner& loaded, const std::vector<std::vector<BlockId>>& blocks,
          const std::vector<TokenId>& tokens, Position begin) {
  StepInput input;
  for (size_t i = 0; i < blocks.size(); ++i) {
    input.items.push_back({.id = RequestId{i + 1},
                           .begin = begin,
                           .tokens = tokens,
                           .blocks = blocks[i],
                           .sample = true});
  }
  OrExit(loaded.runner->Step(input));
}

double StepSeconds(const std::string& folder) {
  const ModelFiles files = OrExit(OpenModelFiles(folder));
  LoadedRunner loaded = OrExit(LoadRunner(files, {.device = BenchmarkDevice()}));
  std::vector<std::vector<BlockId>> blocks;
  for (int32_t i = 0; i < kSequences; ++i) {
    blocks.push_back({BlockId{2 * i}, BlockId{2 * i + 1}});
  }
  for (size_t i = 0; i < blocks.size(); i += 8) {  // rows of a step are bounded
    const std::vector<std::vector<BlockId>> some(blocks.begin() + i,
                                                 blocks.begin() + i + 8);
    Step(loaded, some, std::vector<TokenId>(kPromptTokens, 300), 0);
  }
  Position position = kPromptTokens;
  return Quantile(Measure(12, [&] { Step(loaded, blocks, {301}, position++); }), 0.5);
}

int Main(int argc, char** argv) {
  std::printf("machine: %s, %u threads\n", CpuName().c_str(),
              std::thread::hardware_concurrency());
  BenchScrape();
  const double counted = InstrumentationSeconds();
  const double step = argc > 1 ? StepSeconds(argv[1]) : kShortStepSeconds;
  std::printf("counting a step of %d sequences: %.1f us\n", kSequences, 1e6 * counted);
  std::printf("such a step%s: %.1f ms; share %.3f %%, target 1 %%: %s\n",
              argc > 1 ? "" : " (assumed)", 1e3 * step, 100 * counted / step,
              Verdict(counted <= 0.01 * step));
  return 0;
}

}  // namespace
}  // namespace quire::server

int main(int argc, char** argv) { return quire::server::Main(argc, argv); }

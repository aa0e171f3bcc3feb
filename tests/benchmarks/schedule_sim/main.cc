// The product's scheduler against a cost model, in simulated time: what a policy, a size
// of cache or a number of replicas does to latency, goodput and fairness.
//   schedule_sim --help
#include <CLI/CLI.hpp>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <string>

#include "core/schedule/trace.h"
#include "tests/benchmarks/schedule_sim/arrivals.h"
#include "tests/benchmarks/schedule_sim/report.h"
#include "tests/benchmarks/schedule_sim/simulation.h"

namespace quire::sim {
namespace {

// Who waited, read and wrote in each step: what timeline.py draws.
class Timeline {
 public:
  explicit Timeline(const std::string& path) {
    if (path.empty()) return;
    file_.open(path);
    file_ << "seconds,request,tenant,priority,state,rows\n";
  }

  void Add(const TraceEntry& entry) {
    if (!file_.is_open()) return;
    if (first_ns_ < 0) first_ns_ = entry.state.now_ns;
    for (const ScheduledRequest& request : entry.state.requests) {
      int32_t rows = 0;
      for (const PlannedItem& item : entry.plan.items) {
        if (item.id == request.id) rows = item.rows;
      }
      const bool read = request.computed_tokens >= request.prompt_tokens;
      const char* state = rows == 0 ? (request.running ? "paused" : "waiting")
                          : read    ? "decode"
                                    : "prefill";
      file_ << static_cast<double>(entry.state.now_ns - first_ns_) * 1e-9 << ','
            << static_cast<uint64_t>(request.id) << ',' << request.tenant << ','
            << request.priority << ',' << state << ',' << rows << '\n';
    }
  }

 private:
  std::ofstream file_;
  int64_t first_ns_ = -1;
};

// Recorded decisions (quire-server --schedule-trace) are made again and compared.
int Replay(const std::string& path, const std::string& timeline_path) {
  std::ifstream file(path);
  std::string line;
  if (!std::getline(file, line)) {
    std::cerr << "schedule_sim: '" << path << "' cannot be read\n";
    return 1;
  }
  const auto options = ParseTraceOptions(line);
  if (!options.ok()) {
    std::cerr << path << ":1: " << options.status().message() << "\n";
    return 1;
  }
  Timeline timeline(timeline_path);
  int64_t same = 0, different = 0;
  for (int64_t number = 2; std::getline(file, line); ++number) {
    const auto entry = ParseTraceEntry(line);
    if (!entry.ok()) {
      std::cerr << path << ":" << number << ": " << entry.status().message() << "\n";
      return 1;
    }
    timeline.Add(*entry);
    (PlanStep(*options, entry->state) == entry->plan ? same : different) += 1;
  }
  std::printf("{\"plans\": %lld, \"different\": %lld}\n",
              static_cast<long long>(same + different),
              static_cast<long long>(different));
  return different == 0 ? 0 : 1;
}

int Main(int argc, char** argv) {
  CLI::App app(
      "Simulates quire's engine: its scheduler, cache and prefix cache, with a "
      "cost model instead of a model.");
  ArrivalOptions arrivals;
  SimulationOptions options;
  std::string process = "poisson", routing = "least-load", file, replay, timeline;
  int64_t cache_tokens = 131072, chunk_tokens = 512;
  StepCost& cost = options.replica.cost = DefaultStepCost();
  app.add_option("--replay", replay, "a recorded schedule trace: plan again, compare");
  app.add_option("--timeline", timeline, "CSV of who ran when, with --replay");
  app.add_option("--arrivals", file, "CSV file instead of made-up arrivals");
  app.add_option("--process", process)->check(CLI::IsMember({"poisson", "bursts"}));
  app.add_option("--rate", arrivals.per_second, "requests a second")
      ->check(CLI::PositiveNumber);
  app.add_option("--seconds", arrivals.seconds)->check(CLI::PositiveNumber);
  app.add_option("--min-prompt", arrivals.min_prompt)->check(CLI::PositiveNumber);
  app.add_option("--max-prompt", arrivals.max_prompt)->check(CLI::PositiveNumber);
  app.add_option("--tail", arrivals.tail, "Pareto's alpha of prompt lengths")
      ->check(CLI::PositiveNumber);
  app.add_option("--new", arrivals.mean_new, "mean answer")->check(CLI::PositiveNumber);
  app.add_option("--tenants", arrivals.tenants)->check(CLI::Range(1, 100000));
  app.add_option("--documents", arrivals.documents, "prompts are questions about these");
  app.add_option("--deadline", arrivals.deadline_s, "seconds; 0: none");
  app.add_option("--seed", arrivals.seed);
  app.add_option("--replicas", options.replicas)->check(CLI::Range(1, 1000));
  app.add_option("--routing", routing)
      ->check(CLI::IsMember({"least-load", "prefix-affine"}));
  app.add_option("--cache-tokens", cache_tokens, "of each replica")
      ->check(CLI::Range(int64_t{64}, int64_t{1} << 32));
  app.add_option("--max-running", options.replica.schedule.max_running);
  app.add_option("--max-waiting", options.replica.max_waiting);
  app.add_option("--chunk-tokens", chunk_tokens);
  app.add_option("--max-long-prefills", options.replica.schedule.max_long_prefills);
  app.add_option("--decode-stretch-percent",
                 options.replica.schedule.decode_stretch_percent);
  app.add_flag("--enforce-deadlines", options.replica.enforce_deadlines);
  app.add_option("--step-ps", cost.step_ps, "prices of a step, picoseconds");
  app.add_option("--row-ps", cost.row_ps);
  app.add_option("--sequence-ps", cost.sequence_ps);
  app.add_option("--sample-ps", cost.sample_ps);
  app.add_option("--prefill-column-ps", cost.prefill_column_ps);
  app.add_option("--decode-column-ps", cost.decode_column_ps);
  app.add_option("--sparse-row-ps", cost.sparse_row_ps);
  app.add_option("--scanned-column-ps", cost.scanned_column_ps);
  CLI11_PARSE(app, argc, argv);
  if (!replay.empty()) return Replay(replay, timeline);
  if (process == "bursts") arrivals.process = Process::kBursts;
  if (routing == "prefix-affine") options.routing = Routing::kPrefixAffine;
  ScheduleOptions& schedule = options.replica.schedule;
  schedule.step_tokens = static_cast<int32_t>(chunk_tokens);
  schedule.kv.num_blocks =
      static_cast<int32_t>(cache_tokens / schedule.kv.tokens_per_block);
  if (const absl::Status status = schedule.Validate(); !status.ok()) {
    std::cerr << status.message() << "\n";
    return 2;
  }
  std::vector<Arrival> trace = MakeArrivals(arrivals);
  if (!file.empty()) {
    auto read = ReadArrivals(file);
    if (!read.ok()) {
      std::cerr << read.status().message() << "\n";
      return 2;
    }
    trace = *std::move(read);
  }
  std::cout << ToJson(Summarize(Simulate(options, trace))) << "\n";
  return 0;
}

}  // namespace
}  // namespace quire::sim

int main(int argc, char** argv) { return quire::sim::Main(argc, argv); }

#include "tests/benchmarks/engine_bench/simulated.h"

#include <cstdio>
#include <memory>
#include <string>
#include <thread>

#include "tests/benchmarks/engine_bench/measure.h"
#include "tests/benchmarks/schedule_sim/report.h"
#include "tests/benchmarks/schedule_sim/simulation.h"

namespace quire {
namespace {

struct Figures {
  double first_token_s = 0;  // mean
  double end_s = 0;          // mean
  double gap_ms = 0;         // median
  double seconds = 0;        // until the last end
};

sim::ArrivalOptions Trace(uint64_t seed, double per_second) {
  return {.per_second = per_second,
          .seconds = 25,
          .min_prompt = 60,
          .max_prompt = 4000,
          .tail = 0.9,
          .mean_new = 40,
          .tenants = 3,
          .seed = seed};
}

Figures RunReal(Engine& engine, const std::vector<sim::Arrival>& arrivals,
                const MakePrompt& make_prompt, uint64_t seed) {
  std::vector<std::unique_ptr<Request>> requests;
  const double start = Seconds();
  for (size_t i = 0; i < arrivals.size(); ++i) {
    const sim::Arrival& a = arrivals[i];
    const double due = start + static_cast<double>(a.at_ns) * 1e-9;
    std::this_thread::sleep_for(std::chrono::duration<double>(due - Seconds()));
    EngineRequest request{
        .work = GenerateRequest{.prompt = make_prompt(seed + i, a.prompt_tokens),
                                .max_new_tokens = static_cast<int32_t>(a.new_tokens)}};
    request.scheduling.priority = kMaxPriority - a.priority;
    request.scheduling.tenant = std::to_string(a.tenant);
    requests.push_back(std::make_unique<Request>(engine, std::move(request)));
  }
  Figures figures;
  std::vector<double> gaps;
  for (auto& request : requests) {
    const Times& times = request->Wait();
    figures.first_token_s += times.first_token() / static_cast<double>(requests.size());
    figures.end_s +=
        (times.finished - times.submitted) / static_cast<double>(requests.size());
    for (const double gap : times.gaps(0, 1e30)) gaps.push_back(1e3 * gap);
    figures.seconds = std::max(figures.seconds, times.finished - start);
  }
  figures.gap_ms = Quantile(gaps, .5);
  return figures;
}

Figures RunSimulated(const EngineOptions& options, const StepCost& cost,
                     const std::vector<sim::Arrival>& arrivals) {
  sim::SimulationOptions simulation;
  ScheduleOptions& schedule = simulation.replica.schedule;
  schedule.max_running = options.max_running;
  schedule.step_tokens = options.chunk_tokens;
  schedule.kv = options.kv;
  simulation.replica.cost = cost;
  simulation.replica.max_waiting = 1 << 20;
  const sim::SimulationResult result = sim::Simulate(simulation, arrivals);
  Figures figures{.seconds = static_cast<double>(result.end_ns) * 1e-9};
  std::vector<double> gaps;
  const auto count = static_cast<double>(result.outcomes.size());
  for (const sim::Outcome& o : result.outcomes) {
    figures.first_token_s +=
        static_cast<double>(o.first_token_ns - o.arrival->at_ns) * 1e-9 / count;
    figures.end_s += static_cast<double>(o.end_ns - o.arrival->at_ns) * 1e-9 / count;
    for (const int64_t gap : o.gaps_ns) gaps.push_back(static_cast<double>(gap) * 1e-6);
  }
  figures.gap_ms = Quantile(gaps, .5);
  return figures;
}

std::string ToJson(const Figures& f) {
  char text[160];
  std::snprintf(text, sizeof text,
                "{\"mean_first_token_s\": %.3f, \"mean_end_s\": %.3f, \"median_gap_ms\": "
                "%.2f, \"seconds\": %.2f}",
                f.first_token_s, f.end_s, f.gap_ms, f.seconds);
  return text;
}

}  // namespace

void CompareWithSimulation(Engine& engine, const EngineOptions& options,
                           const MakePrompt& make_prompt) {
  // As many requests as keep the engine busy for most of the time.
  const StepCost& first = options.step_cost;
  const double request_s =
      1e-12 * static_cast<double>(250 * first.row_ps + 20 * first.step_ps);
  const double per_second = 0.6 / request_s;
  RunReal(engine, sim::MakeArrivals(Trace(1, per_second)), make_prompt, 10'000);
  const StepCost learned = engine.stats().step_cost;
  const std::vector<sim::Arrival> arrivals = sim::MakeArrivals(Trace(2, per_second));
  const Figures real = RunReal(engine, arrivals, make_prompt, 20'000);
  const Figures simulated = RunSimulated(options, learned, arrivals);
  std::printf(
      "{\"bench\": \"simulated\", \"requests\": %zu, \"per_second\": %.2f, \"real\": %s, "
      "\"simulated\": %s, \"ratios\": {\"first_token\": %.3f, \"end\": %.3f, \"gap\": "
      "%.3f, \"seconds\": %.3f}}\n",
      arrivals.size(), per_second, ToJson(real).c_str(), ToJson(simulated).c_str(),
      simulated.first_token_s / real.first_token_s, simulated.end_s / real.end_s,
      simulated.gap_ms / real.gap_ms, simulated.seconds / real.seconds);
}

}  // namespace quire

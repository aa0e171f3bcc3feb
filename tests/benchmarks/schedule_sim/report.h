#pragma once

#include <string>
#include <vector>

#include "tests/benchmarks/schedule_sim/simulation.h"

namespace quire::sim {

struct Summary {
  int64_t requests = 0;
  int64_t finished = 0;  // with an answer, in time
  int64_t refused = 0;
  int64_t expired = 0;
  int64_t preemptions = 0;
  double seconds = 0;
  double ttft_s[3] = {};      // p50, p90, p99 of those that finished
  double itl_ms[3] = {};      // p50, p90, p99 of all gaps
  double end_s = 0;           // mean of arrival to end
  double goodput_tokens = 0;  // prompt and answer tokens of finished requests a second
  double cached_share = 0;    // of the prompt tokens of finished requests
  // Jain's index of the tenants' served shares of what they asked for: 1 is fair.
  double fairness = 0;
  double busy_share = 0;
};

Summary Summarize(const SimulationResult& result);
std::string ToJson(const Summary& summary);

}  // namespace quire::sim

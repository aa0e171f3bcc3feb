#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace quire::sim {

// One request of a trace. Its first document_tokens tokens are those of the document.
struct Arrival {
  int64_t at_ns = 0;
  int64_t prompt_tokens = 1;
  int64_t new_tokens = 1;
  uint32_t tenant = 0;
  int32_t priority = 2;   // class, 0 .. 4
  int64_t document = -1;  // -1: nothing that others share
  int64_t document_tokens = 0;
  int64_t deadline_ns = 0;  // after its arrival; 0: none
};

enum class Process : uint8_t { kPoisson, kBursts };

struct ArrivalOptions {
  Process process = Process::kPoisson;
  double per_second = 1;
  double seconds = 60;
  double burst = 20;         // kBursts: requests that come together, on average
  int64_t min_prompt = 100;  // prompt lengths: Pareto, cut to [min, max]
  int64_t max_prompt = 1'000'000;
  double tail = 1.0;            // Pareto's alpha: the smaller, the heavier
  double mean_new = 128;        // answer lengths: exponential, at least 1
  uint32_t tenants = 4;         // of which the first sends half of all requests
  double priority_share = 0.1;  // of the requests: of the best class, and of the worst
  int64_t documents = 0;        // > 0: prompts are a document of these and a question
  double deadline_s = 0;        // 0: none
  uint64_t seed = 1;
};

// Sorted by time; the same options give the same trace.
std::vector<Arrival> MakeArrivals(const ArrivalOptions& options);

// One line a request: seconds,prompt,new,tenant,priority,document,document_tokens,
// deadline_seconds; lines that begin with # are left out. kInvalidArgument names the
// line.
absl::StatusOr<std::vector<Arrival>> ReadArrivals(const std::string& path);

}  // namespace quire::sim

#pragma once

#include <cstdint>
#include <vector>

#include "tests/benchmarks/schedule_sim/arrivals.h"
#include "tests/benchmarks/schedule_sim/replica.h"

namespace quire::sim {

enum class Routing : uint8_t {
  kLeastLoad,     // the replica whose prompts are read soonest
  kPrefixAffine,  // the one that has most of the prompt cached, unless it is overloaded
};

struct SimulationOptions {
  ReplicaOptions replica;
  int32_t replicas = 1;
  Routing routing = Routing::kLeastLoad;
  // kPrefixAffine: replicas that are looked at, the least loaded ones and the document's
  // own (by rendezvous hashing), and the load beyond the least that is put up with.
  int32_t candidates = 4;
  int64_t patience_ns = 2'000'000'000;
};

struct SimulationResult {
  std::vector<Outcome> outcomes;  // of each arrival, in order
  int64_t end_ns = 0;
  int64_t steps = 0;
  double busy_share = 0;  // of all replicas, until the end
};

// Runs the arrivals to their ends. Deterministic.
SimulationResult Simulate(const SimulationOptions& options,
                          const std::vector<Arrival>& arrivals);

}  // namespace quire::sim

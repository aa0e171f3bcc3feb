#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "core/kv/block_pool.h"
#include "core/kv/prefix_cache.h"
#include "core/schedule/scheduler.h"
#include "tests/benchmarks/schedule_sim/arrivals.h"

namespace quire::sim {

struct ReplicaOptions {
  ScheduleOptions schedule;
  StepCost cost;
  int64_t sparse_from = 4096;  // AUTO
  int32_t max_waiting = 64;
  bool enforce_deadlines = false;  // refuses what it thinks cannot be in time
  int32_t expected_percent = 100;  // of the answers' longest, for that
};

// What became of one arrival.
struct Outcome {
  const Arrival* arrival = nullptr;
  bool refused = false;
  bool expired = false;
  int64_t first_token_ns = 0;  // when
  int64_t end_ns = 0;
  int64_t cached_tokens = 0;
  int32_t preemptions = 0;
  std::vector<int64_t> gaps_ns;  // between its tokens
};

// One engine: the product's scheduler, blocks and prefix cache, and a cost model where
// the runner would be. Time is an argument.
class Replica {
 public:
  explicit Replica(const ReplicaOptions& options);
  ~Replica();

  // False: refused, and the outcome says so.
  bool Accept(const Arrival& arrival, Outcome& outcome, int64_t now_ns);

  // Begins a step and returns when it will end; nullopt: there is nothing to do.
  std::optional<int64_t> Begin(int64_t now_ns);
  // The step that was begun ends now.
  void End(int64_t now_ns);
  bool stepping() const { return stepping_; }

  int64_t load_ns(int64_t now_ns) const;  // until all its prompts are read, about
  int64_t busy_ns() const { return busy_ns_; }
  // Leading tokens of the arrival's prompt that are cached here.
  int64_t CachedTokens(const Arrival& arrival) const;

 private:
  struct Job;
  ScheduleState StateAt(int64_t now_ns) const;
  PrefixCache::Found FindPrefix(const Job& job) const;
  bool Start(Job& job, int32_t blocks);
  void Publish(Job& job);
  void Preempt(Job& job);
  void DropExpired(int64_t now_ns);
  Job* Find(RequestId id);
  void Remove(RequestId id);

  const ReplicaOptions options_;
  BlockPool pool_;
  PrefixCache prefix_;
  std::vector<std::unique_ptr<Job>> jobs_;
  std::vector<int64_t> served_;
  std::vector<PlannedItem> items_;  // of the step under way
  uint64_t last_id_ = 0;
  int64_t busy_ns_ = 0;
  int64_t began_ns_ = 0;
  bool stepping_ = false;
};

}  // namespace quire::sim

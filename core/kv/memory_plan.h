#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "core/config/model_config.h"
#include "core/kv/block_pool.h"

namespace quire {

struct MemoryPlanInput {
  int64_t kv_cache_bytes = 0;   // the user's choice; 0: decide from available_bytes
  int64_t available_bytes = 0;  // free memory of the machine, or of the GPU
  // A choice beyond available_bytes is refused. A CPU's is not: memory that is asked for
  // is taken when it is written.
  bool limited = false;
  // Bytes that go with each byte of keys and values: of an index, which is there from the
  // start; and of what some requests keep beside them (FAITHFUL's groups), for which room
  // is left. A choice need not leave any.
  double index_share = 0;
  double groups_share = 0;
  int32_t bytes_per_value = 2;
  int32_t tokens_per_block = 64;
};

// How many cache blocks to make. Without a choice: half of the available memory, at most
// four full context windows, at least one window, or what fits of it; shares included.
// kInvalidArgument names kv_cache_bytes, the least that holds one block, and the value.
// kResourceExhausted: not even one block, or not the choice, fits the available memory.
absl::StatusOr<KvGeometry> PlanKvCache(const ModelConfig& config,
                                       const MemoryPlanInput& input);

// Free memory of this machine in bytes (MemAvailable, cut to the cgroup's limit), or 0.
int64_t AvailableMemoryBytes();

}  // namespace quire

#pragma once

#include <cstdint>
#include <ostream>
#include <vector>

#include "gtest/gtest.h"
#include "tests/core/schedule/requests.h"

namespace quire {

inline void PrintTo(const PlannedItem& item, std::ostream* out) {
  *out << "{" << static_cast<uint64_t>(item.id) << ", rows " << item.rows
       << (item.starts ? ", starts" : "") << ", blocks " << item.blocks << "}";
}

inline RequestId Id(uint64_t id) { return RequestId{id}; }

inline PlannedItem Item(uint64_t id, int32_t rows, int32_t blocks) {
  return {.id = Id(id), .rows = rows, .blocks = blocks};
}

inline PlannedItem Start(uint64_t id, int32_t rows, int32_t blocks) {
  return {.id = Id(id), .rows = rows, .starts = true, .blocks = blocks};
}

inline std::vector<uint64_t> Ids(const StepPlan& plan) {
  std::vector<uint64_t> ids;
  for (const PlannedItem& item : plan.items)
    ids.push_back(static_cast<uint64_t>(item.id));
  return ids;
}

// A scheduler whose state a test builds from literals.
class SchedulerTest : public ::testing::Test {
 protected:
  SchedulerTest() {
    options_ = {.max_running = 8,
                .step_tokens = 64,
                .long_prompt_tokens = 200,
                .max_long_prefills = 2,
                .step_ns = 0,
                .decode_stretch_percent = 180,
                .min_chunk_tokens = 4,
                .aging_ns = 1000 * kMs,
                .overdue_ns = 5000 * kMs,
                .spare_blocks = 2,
                .kv = {.num_blocks = 1000, .tokens_per_block = 16}};
    state_ = {.free_blocks = 1000, .served_tokens = {0, 0, 0}};
  }

  StepPlan Plan() { return PlanStep(options_, state_); }
  ScheduledRequest& Add(const ScheduledRequest& request) {
    state_.requests.push_back(request);
    return state_.requests.back();
  }

  ScheduleOptions options_;
  ScheduleState state_;
};

}  // namespace quire

#pragma once

#include <cstdint>

#include "core/schedule/scheduler.h"

// Requests and costs of scheduler tests, in one line each.
namespace quire {

inline constexpr int64_t kMs = 1'000'000;  // nanoseconds

inline ScheduledRequest Waiting(uint64_t id, int64_t prompt, int64_t accepted_ms = 0) {
  return {.id = RequestId{id},
          .accepted_ns = accepted_ms * kMs,
          .known_tokens = prompt,
          .prompt_tokens = prompt,
          .max_tokens = prompt + 100};
}

// Runs; `computed` of its prompt's tokens are read. A block holds 16 tokens.
inline ScheduledRequest Begun(uint64_t id, int64_t prompt, int64_t computed,
                              int64_t accepted_ms = 0) {
  ScheduledRequest request = Waiting(id, prompt, accepted_ms);
  request.running = true;
  request.computed_tokens = computed;
  request.held_blocks = static_cast<int32_t>((prompt + 1 + 15) / 16);
  request.freed_blocks = request.held_blocks;
  return request;
}

// Has read its prompt and been given known - prompt tokens; holds blocks for what is
// computed, so that it needs one more if known - 1 is a multiple of 16.
inline ScheduledRequest Decoding(uint64_t id, int64_t prompt, int64_t known,
                                 int64_t accepted_ms = 0) {
  ScheduledRequest request = Begun(id, prompt, known - 1, accepted_ms);
  request.known_tokens = known;
  request.max_tokens = known + 100;
  request.held_blocks = static_cast<int32_t>((known - 1 + 15) / 16);
  request.freed_blocks = request.held_blocks;
  return request;
}

// Ten milliseconds a step, one a row.
inline StepCost CostOfRows() {
  return {.step_ps = 10 * kMs * 1000, .row_ps = kMs * 1000};
}

}  // namespace quire

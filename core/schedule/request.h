#pragma once

#include <algorithm>
#include <cstdint>

#include "core/schedule/scheduler.h"

// What a request's numbers mean.
namespace quire {

inline int64_t TokensLeft(const ScheduledRequest& request) {
  return request.known_tokens - request.computed_tokens;
}

inline bool PromptRead(const ScheduledRequest& request) {
  return request.computed_tokens >= request.prompt_tokens;
}

inline bool Decodes(const ScheduledRequest& request) {
  return request.running && TokensLeft(request) == 1 && PromptRead(request);
}

inline bool IsLong(const ScheduleOptions& options, const ScheduledRequest& request) {
  // One that has begun as a long prompt stays one nearly to its end.
  const int64_t least =
      request.running ? options.long_prompt_tokens / 8 : options.long_prompt_tokens;
  return request.prompt_tokens >= options.long_prompt_tokens && !PromptRead(request) &&
         TokensLeft(request) >= least;
}

// Its prompt must still be read in one item.
inline bool ReadsWhole(const ScheduledRequest& request) {
  return request.whole && !PromptRead(request);
}

// KvGeometry::BlocksFor that no number of tokens overflows.
inline int64_t BlocksFor(const KvGeometry& kv, int64_t tokens) {
  return tokens / kv.tokens_per_block + (tokens % kv.tokens_per_block != 0 ? 1 : 0);
}

// Blocks that it holds once it has started.
inline int64_t BlocksToStart(const KvGeometry& kv, const ScheduledRequest& request) {
  const int64_t next = std::min(request.known_tokens + 1, request.max_tokens);
  return BlocksFor(
      kv, request.pinned ? request.max_tokens : std::max(request.known_tokens, next));
}

// How long a step may be in which answers, whose own step takes decode_ns, go on beside
// prompts: each short prompt that waits for rows adds to what the answers put up with.
inline int64_t MixedStepNs(const ScheduleOptions& options, int64_t decode_ns,
                           int64_t short_prompts) {
  constexpr int64_t kMostCounted = 16;
  const int64_t stretch = options.decode_stretch_percent - 100;
  const int64_t least = decode_ns + decode_ns / 100 * stretch;
  const int64_t more =
      decode_ns +
      decode_ns / 100 * stretch * std::clamp(short_prompts, int64_t{1}, kMostCounted);
  return options.step_ns == 0 ? more : std::max(least, std::min(more, options.step_ns));
}

// Its next `rows` tokens, as far as their cost goes.
inline RowRange RowsOf(const ScheduledRequest& request, int64_t rows) {
  return {.begin = request.computed_tokens,
          .rows = rows,
          .samples = request.samples && rows == TokensLeft(request),
          .sparse_from = request.sparse_from};
}

}  // namespace quire

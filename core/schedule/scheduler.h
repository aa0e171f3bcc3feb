#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "core/base/types.h"
#include "core/kv/block_pool.h"
#include "core/schedule/step_cost.h"

// Who computes what in the next step: a pure function of integers. The engine, the
// simulator and a recorded trace call the same one.
//
// Order. Requests have a priority class, a tenant, and the order in which they were
// accepted. Those that have waited longer than `overdue_ns` come first, oldest first;
// then lower effective classes, a class better for each `aging_ns` of waiting; within a
// class the tenant that was served the fewest tokens (virtual token counter, Sheng et
// al., arXiv 2401.00588), the plan's own rows included, so that starts of one step
// alternate; within a tenant first come, first served. What runs has its place in the
// same order, as if it still waited. Who keeps served_tokens lifts the count of a tenant
// that comes back to the least of those that are there.
//
// A step. All sequences that decode get their row. The rest of the budget, in rows and in
// predicted time, goes to prompts that have begun, then to new ones. Prompts of which
// at least long_prompt_tokens are to be read when they begin are "long", until an eighth
// of that is left: at most max_long_prefills of them are begun at a time, and while short
// prompts take rows the long ones share a quarter of the budget; what the short ones
// leave is theirs. So short prompts, begun or new, are given rows before long ones. The
// first prompt in line gets min_chunk_tokens rows whatever they cost; if it is long, so
// does the first short one. A prompt that is read whole may pass the budget, and is read
// when it is the first of its kind (short, long) that the step reads. Until then, nothing
// of its kind that is behind it starts.
//
// Memory. A sequence starts only with blocks for all its known tokens and one more
// (pinned: all it may ever need); decoding takes one block more at a time. When there is
// none, the request that is last in the order of running ones, not pinned, is preempted:
// it gives its blocks back and waits, in its old place, to be read again. That may be the
// one that wanted the block. Nothing starts in a step that preempts.
// No bypass: while the first that waits lacks memory, nothing behind it starts; only long
// prompts that wait for one of max_long_prefills are passed.
//
// Nobody starves: once a request is overdue, no request that was accepted after it starts
// before it, unless it is long and the other one short; and the first in line of the
// prompts that have begun gets rows in every step. So it waits for what was accepted
// before it and for what runs, both finite, however much comes in.
namespace quire {

inline constexpr int32_t kBestPriority = 0;  // classes; the lowest number is first
inline constexpr int32_t kWorstPriority = 4;

struct ScheduleOptions {
  int32_t max_running = 256;  // sequences that hold cache blocks at a time
  int32_t step_tokens = 512;  // rows of a step, >= max_running
  int32_t long_prompt_tokens = 4096;
  int32_t max_long_prefills = 2;
  // The longest step wanted while only prompts are read; 0: no limit.
  int64_t step_ns = 250'000'000;
  // While others decode, a step with prompts takes at most this share of the decodes' own
  // step, in percent; > 100. Each short prompt in line, up to 16, adds as much again, up
  // to step_ns: a single text hardly slows the answers down, a crowd is not kept waiting.
  int32_t decode_stretch_percent = 180;
  int32_t min_chunk_tokens = 8;  // the first prompt in line gets these in any case
  int64_t aging_ns = 10'000'000'000;
  int64_t overdue_ns = 60'000'000'000;
  // Kept free when a sequence starts, for those that grow.
  int32_t spare_blocks = 4;
  KvGeometry kv;

  // kInvalidArgument names the field, its limit and its value.
  absl::Status Validate() const;
};

// One accepted, unfinished request.
struct ScheduledRequest {
  RequestId id{};
  uint32_t tenant = 0;      // index into ScheduleState::served_tokens
  int32_t priority = 2;     // [kBestPriority, kWorstPriority]
  int64_t accepted_ns = 0;  // requests are ordered by (accepted_ns, id)

  bool running = false;
  // Tokens that are to be in the cache before the next one is chosen: prompt and answer
  // so far. Of these, computed (or found in the prefix cache).
  int64_t known_tokens = 0;
  int64_t computed_tokens = 0;
  int64_t prompt_tokens = 0;  // of the known ones; decoding begins when they are computed
  int64_t max_tokens = 0;     // that it may ever have in the cache
  bool samples = true;        // false: is over when its known tokens are computed
  // Reserves max_tokens at its start and is never preempted.
  bool pinned = false;
  bool whole = false;  // its prompt is read in one item, whatever the budget says
  int64_t sparse_from = kNeverSparse;

  int32_t held_blocks = 0;  // running: in its block table
  // Running: blocks that would come free if it gave all back. May be left at 0 while
  // free_blocks are enough for each that runs to take one more.
  int32_t freed_blocks = 0;
  // Waiting: leading blocks that it would share with sequences that run.
  int32_t shared_blocks = 0;

  friend bool operator==(const ScheduledRequest&, const ScheduledRequest&) = default;
};

struct ScheduleState {
  int64_t now_ns = 0;
  int32_t free_blocks = 0;                 // that nobody holds, cached ones included
  std::vector<int64_t> served_tokens;      // of each tenant
  std::vector<ScheduledRequest> requests;  // any order
  StepCost cost;
  friend bool operator==(const ScheduleState&, const ScheduleState&) = default;
};

struct PlannedItem {
  RequestId id{};
  int32_t rows = 0;     // from computed_tokens on; > 0
  bool starts = false;  // it was waiting
  // Blocks that it must hold before the step; not fewer than it has.
  int32_t blocks = 0;
  friend bool operator==(const PlannedItem&, const PlannedItem&) = default;
};

struct StepPlan {
  std::vector<RequestId> preempt;  // give these up first; the last in order is first
  // Decodes, as accepted; then short prompts, then long ones, in order: begun, new.
  std::vector<PlannedItem> items;
  friend bool operator==(const StepPlan&, const StepPlan&) = default;
};

// REQUIRES: options valid; ids unique; computed_tokens < known_tokens <= max_tokens,
// which fit the cache; what runs holds at least the blocks that it was last planned with.
// An empty plan: nothing can be done until a request is accepted or ends. That never
// happens while one runs, or while one waits and none runs. The order of state.requests
// does not matter.
StepPlan PlanStep(const ScheduleOptions& options, const ScheduleState& state);

// Whether a request that waits since it was accepted is overdue, and its effective class,
// kBestPriority at best.
bool IsOverdue(const ScheduleOptions& options, const ScheduledRequest& request,
               int64_t now_ns);
int32_t EffectivePriority(const ScheduleOptions& options, const ScheduledRequest& request,
                          int64_t now_ns);

}  // namespace quire

#pragma once

#include <cstdint>

#include "core/schedule/scheduler.h"

namespace quire {

struct TimeEstimate {
  int64_t first_token_ns = 0;  // from now until its prompt is read
  int64_t end_ns = 0;          // from now until it is over
};

// When `request` (waiting; in state.requests or not) would be read and done if nothing
// else came in, from what is ahead of it and the cost of steps. expected_tokens: that its
// answer, and every other running or waiting one, is thought to have, as a share of what
// it may have, in percent. A pure function.
//
// Fluid: prompts ahead of it in PlanStep's order are read first, by the rows that a step
// has beside the decodes; if it must wait for blocks or a place, the running ones that
// end first make room. Linear in the number of requests.
TimeEstimate EstimateTimes(const ScheduleOptions& options, const ScheduleState& state,
                           const ScheduledRequest& request, int32_t expected_percent);

// The time that all prompts that are not read yet will take.
int64_t PrefillBacklogNs(const ScheduleOptions& options, const ScheduleState& state);

// The same request on an idle machine.
TimeEstimate EstimateAlone(const ScheduleOptions& options, const StepCost& cost,
                           const ScheduledRequest& request, int32_t expected_percent);

}  // namespace quire

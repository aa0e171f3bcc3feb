#pragma once

#include <vector>

#include "absl/time/time.h"
#include "absl/types/span.h"
#include "core/schedule/step_cost.h"

namespace quire {

// What one item of a step took of its time.
struct ItemTime {
  absl::Duration own;
  absl::Duration dense;    // what it would have, had no row been read sparsely
  absl::Duration skipped;  // for rows that are not measured
};

// Divides a step's time among its items by what each was expected to cost, the step's own
// price in equal parts. Of an item that begins before `measure_from`, rows before it are
// left out of the first two times. The prices are of refined attention; faithful rows
// count as dense ones.
std::vector<ItemTime> DivideStep(const StepCost& cost, absl::Span<const RowRange> items,
                                 absl::Duration elapsed, int64_t measure_from = 0);

}  // namespace quire

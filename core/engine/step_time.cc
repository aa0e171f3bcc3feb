#include "core/engine/step_time.h"

#include <algorithm>
#include <cmath>

namespace quire {
namespace {

// Nanoseconds without the step's own price.
double RowsNs(const StepCost& cost, const RowRange& rows) {
  if (rows.rows <= 0) return 0;
  StepFeatures features = FeaturesOf(rows);
  features.steps = 0;
  return static_cast<double>(cost.Nanoseconds(features));
}

RowRange Dense(RowRange rows) {
  rows.sparse_from = kNeverSparse;
  return rows;
}

// The rows from `position` on.
RowRange From(RowRange rows, int64_t position) {
  const int64_t skipped = std::clamp<int64_t>(position - rows.begin, 0, rows.rows);
  rows.begin += skipped;
  rows.rows -= skipped;
  return rows;
}

}  // namespace

std::vector<ItemTime> DivideStep(const StepCost& cost, absl::Span<const RowRange> items,
                                 absl::Duration elapsed, int64_t measure_from) {
  const auto count = static_cast<double>(items.size());
  const double step =
      static_cast<double>(cost.Nanoseconds({.steps = 1})) / std::max(count, 1.0);
  const double elapsed_ns = absl::ToDoubleNanoseconds(elapsed);
  std::vector<double> rows_ns;  // priced once: a step may have hundreds of items
  rows_ns.reserve(items.size());
  double all = 0;
  for (const RowRange& item : items) {
    rows_ns.push_back(RowsNs(cost, item));
    all += step + rows_ns.back();
  }
  std::vector<ItemTime> times;
  times.reserve(items.size());
  for (size_t i = 0; i < items.size(); ++i) {
    const RowRange& item = items[i];
    const RowRange counted = From(item, measure_from);
    const double part =
        item.rows > 0 ? static_cast<double>(counted.rows) / static_cast<double>(item.rows)
                      : 0;
    // Durations are slow to multiply.
    const auto time = [&](double share_of_step, double ns) {
      const double share =
          all > 0 ? (share_of_step * step + ns) / all : share_of_step / count;
      return absl::Nanoseconds(std::llround(elapsed_ns * share));
    };
    const double own_ns = part == 1 ? rows_ns[i] : RowsNs(cost, counted);
    const bool sparse = counted.begin + counted.rows >= counted.sparse_from;
    const absl::Duration own = time(part, own_ns);
    times.push_back(
        {.own = own,
         .dense = sparse ? time(part, RowsNs(cost, Dense(counted))) : own,
         .skipped = part == 1 ? absl::ZeroDuration() : time(1, rows_ns[i]) - own});
  }
  return times;
}

}  // namespace quire

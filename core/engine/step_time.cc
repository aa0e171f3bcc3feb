#include "core/engine/step_time.h"

#include <algorithm>

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
  double all = 0;
  for (const RowRange& item : items) all += step + RowsNs(cost, item);
  std::vector<ItemTime> times;
  times.reserve(items.size());
  for (const RowRange& item : items) {
    const RowRange counted = From(item, measure_from);
    const double part =
        item.rows > 0 ? static_cast<double>(counted.rows) / static_cast<double>(item.rows)
                      : 0;
    const auto time = [&](const RowRange& rows) {
      return all > 0 ? elapsed * ((part * step + RowsNs(cost, rows)) / all)
                     : elapsed * (part / count);
    };
    const absl::Duration own = time(counted);
    const absl::Duration whole =
        all > 0 ? elapsed * ((step + RowsNs(cost, item)) / all) : elapsed / count;
    times.push_back({.own = own, .dense = time(Dense(counted)), .skipped = whole - own});
  }
  return times;
}

}  // namespace quire

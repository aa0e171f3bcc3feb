#pragma once

#include <cstdint>
#include <limits>

#include "absl/types/span.h"

namespace quire {

// Rows of one sequence in a step, as far as their cost goes.
struct RowRange {
  int64_t begin = 0;  // position of the first row
  int64_t rows = 0;
  bool samples = false;  // a token is chosen after the last row
  // Rows that see at least so many tokens are read sparsely; kNeverSparse: none.
  int64_t sparse_from = std::numeric_limits<int64_t>::max();
};
inline constexpr int64_t kNeverSparse = std::numeric_limits<int64_t>::max();

// What a step is made of, each with a price in StepCost.
struct StepFeatures {
  int64_t steps = 0;  // 1 if there is any row
  int64_t rows = 0;   // through the linear layers
  int64_t sequences = 0;
  int64_t sampled = 0;          // rows whose next token is chosen
  int64_t prefill_columns = 0;  // tokens seen by dense rows of items with several rows
  int64_t decode_columns = 0;   // tokens read by the row of items with one row
  int64_t sparse_rows = 0;
  int64_t scanned_columns = 0;  // tokens seen by sparse rows

  // Of two parts of one step. Sums that are too large stay at the largest int64.
  StepFeatures& operator+=(const StepFeatures& other);
  friend bool operator==(const StepFeatures&, const StepFeatures&) = default;
};

StepFeatures FeaturesOf(const RowRange& rows);  // steps = 1

// What a step takes, a sum of its parts. Picoseconds, so that a scheduler of integers can
// weigh a single column. Plain value; all prices >= 0.
struct StepCost {
  int64_t step_ps = 0;
  int64_t row_ps = 0;
  int64_t sequence_ps = 0;
  int64_t sample_ps = 0;
  int64_t prefill_column_ps = 0;
  int64_t decode_column_ps = 0;
  int64_t sparse_row_ps = 0;
  int64_t scanned_column_ps = 0;

  // Nanoseconds, rounded up; what is too large is about 2^63 picoseconds.
  int64_t Nanoseconds(const StepFeatures& features) const;
  friend bool operator==(const StepCost&, const StepCost&) = default;
};

// Of a small model on two cores: good enough to begin with.
StepCost DefaultStepCost();

// The most rows, at most rows.rows, that may be added to `step` so that the whole takes
// at most `limit_ns`. Cost grows with rows, so this is a search.
int64_t RowsWithin(const StepCost& cost, const StepFeatures& step, RowRange rows,
                   int64_t limit_ns);

// Learns the prices from steps that were timed: each price moves by the share it has in
// the prediction (exponentiated gradient, Kivinen and Warmuth 1997), so prices stay
// positive (a price of 0 stays 0) and what a step did not use stays as it was. A step
// moves no price by more than a factor of 2. Deterministic. Not thread-safe.
class StepCostFit {
 public:
  // rate in (0, 1]: the share of a step's error that is corrected at once.
  StepCostFit(const StepCost& prior, double rate);

  // A step that took no time, or that was to take none, teaches nothing.
  void Add(const StepFeatures& features, int64_t nanoseconds);

  StepCost cost() const;
  // Mean of |ln(measured / predicted)| over about the last 32 steps, each before it was
  // learned.
  double error() const { return error_; }

 private:
  double prices_[8];  // picoseconds, in the order of StepCost
  double rate_;
  double error_ = 0;
  int64_t steps_ = 0;
};

}  // namespace quire

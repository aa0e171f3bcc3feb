#include "core/schedule/step_cost.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "core/base/check.h"

namespace quire {
namespace {

constexpr int64_t kMax = std::numeric_limits<int64_t>::max();
constexpr double kMaxPrice = 1e15;  // 1,000 s: prices stay far from overflow
constexpr int64_t kSparseDecodeGain = 4;
constexpr double kErrorMemory = 1.0 / 32;  // weight of a step once there were 32

// All operands >= 0; too large is kMax.
int64_t Add(int64_t a, int64_t b) {
  int64_t sum;
  return __builtin_add_overflow(a, b, &sum) ? kMax : sum;
}

int64_t Multiply(int64_t a, int64_t b) {
  int64_t product;
  return __builtin_mul_overflow(a, b, &product) ? kMax : product;
}

// Sum of p + 1 over the positions [begin, begin + rows).
int64_t ColumnsSeen(int64_t begin, int64_t rows) {
  const int64_t even = rows % 2 == 0 ? rows / 2 : rows;
  const int64_t odd = rows % 2 == 0 ? rows - 1 : (rows - 1) / 2;
  return Add(Multiply(rows, Add(begin, 1)), rows == 0 ? 0 : Multiply(even, odd));
}

// Of a decode that sees so many tokens. A sparse one reads about a quarter of what it
// sees beyond `dense` tokens: measured on quire-135m at 16,384, docs/dga-findings.md.
int64_t DecodeColumns(int64_t seen, int64_t dense) {
  return seen <= dense ? seen : dense + (seen - dense) / kSparseDecodeGain;
}

std::array<int64_t, 8> Counts(const StepFeatures& f) {
  return {f.steps,           f.rows,           f.sequences,   f.sampled,
          f.prefill_columns, f.decode_columns, f.sparse_rows, f.scanned_columns};
}

std::array<int64_t, 8> Prices(const StepCost& c) {
  return {c.step_ps,           c.row_ps,           c.sequence_ps,   c.sample_ps,
          c.prefill_column_ps, c.decode_column_ps, c.sparse_row_ps, c.scanned_column_ps};
}

int64_t ToPrice(double price) {
  return price > 0 ? std::max(int64_t{1}, static_cast<int64_t>(std::llround(price))) : 0;
}

}  // namespace

StepFeatures& StepFeatures::operator+=(const StepFeatures& other) {
  steps = std::max(steps, other.steps);
  rows = Add(rows, other.rows);
  sequences = Add(sequences, other.sequences);
  sampled = Add(sampled, other.sampled);
  prefill_columns = Add(prefill_columns, other.prefill_columns);
  decode_columns = Add(decode_columns, other.decode_columns);
  sparse_rows = Add(sparse_rows, other.sparse_rows);
  scanned_columns = Add(scanned_columns, other.scanned_columns);
  return *this;
}

StepFeatures FeaturesOf(const RowRange& rows) {
  StepFeatures features;
  if (rows.rows <= 0) return features;
  features.steps = features.sequences = 1;
  features.rows = rows.rows;
  features.sampled = rows.samples ? 1 : 0;
  const int64_t first_sparse = rows.sparse_from - 1;  // a row at p sees p + 1 tokens
  if (rows.rows == 1) {
    features.decode_columns =
        DecodeColumns(rows.begin + 1, std::max(first_sparse, int64_t{0}));
    return features;
  }
  const int64_t dense = std::clamp(first_sparse - rows.begin, int64_t{0}, rows.rows);
  features.prefill_columns = ColumnsSeen(rows.begin, dense);
  features.sparse_rows = rows.rows - dense;
  features.scanned_columns = ColumnsSeen(Add(rows.begin, dense), features.sparse_rows);
  return features;
}

int64_t StepCost::Nanoseconds(const StepFeatures& features) const {
  const auto counts = Counts(features);
  const auto prices = Prices(*this);
  int64_t ps = 0;
  for (size_t i = 0; i < counts.size(); ++i) ps = Add(ps, Multiply(counts[i], prices[i]));
  return ps / 1000 + (ps % 1000 != 0 ? 1 : 0);
}

// quire-135m in bfloat16 on two cores of an AMD EPYC (Zen 4), 24 November 2026; sparse
// rows from the gains at 16,384 and 30,720 tokens in docs/dga-findings.md.
StepCost DefaultStepCost() {
  return {.step_ps = 7'000'000'000,
          .row_ps = 650'000'000,
          .sequence_ps = 30'000'000,
          .sample_ps = 80'000'000,
          .prefill_column_ps = 220'000,
          .decode_column_ps = 1'100'000,
          .sparse_row_ps = 690'000'000,
          .scanned_column_ps = 56'000};
}

int64_t RowsWithin(const StepCost& cost, const StepFeatures& step, RowRange rows,
                   int64_t limit_ns) {
  const auto fits = [&](int64_t count) {
    StepFeatures whole = step;
    whole += FeaturesOf({.begin = rows.begin,
                         .rows = count,
                         .samples = rows.samples && count == rows.rows,
                         .sparse_from = rows.sparse_from});
    return cost.Nanoseconds(whole) <= limit_ns;
  };
  if (rows.rows <= 0) return 0;
  if (fits(rows.rows)) return rows.rows;
  // A single row has a price of its own and may cost more than two: apart.
  int64_t good = 1, bad = rows.rows;
  while (bad - good > 1) {
    const int64_t middle = good + (bad - good) / 2;
    (fits(middle) ? good : bad) = middle;
  }
  return good > 1 || (rows.rows > 1 && fits(1)) ? good : 0;
}

StepCostFit::StepCostFit(const StepCost& prior, double rate) : rate_(rate) {
  QUIRE_CHECK(rate > 0 && rate <= 1);
  const auto prices = Prices(prior);
  std::copy(prices.begin(), prices.end(), prices_);
}

void StepCostFit::Add(const StepFeatures& features, int64_t nanoseconds) {
  const auto counts = Counts(features);
  double predicted = 0;
  for (size_t i = 0; i < counts.size(); ++i) predicted += prices_[i] * counts[i];
  if (nanoseconds <= 0 || predicted <= 0) return;
  const double error = std::log(1000.0 * static_cast<double>(nanoseconds) / predicted);
  steps_ = std::min(steps_ + 1, int64_t{1} << 32);
  error_ += (std::abs(error) - error_) *
            std::max(kErrorMemory, 1.0 / static_cast<double>(steps_));
  const double correction = std::clamp(rate_ * error, -std::log(2.0), std::log(2.0));
  // Where prompts are read beside decodes, what is wrong is put down to the prompts: the
  // decodes' prices are known from the steps that they have to themselves, and say how
  // long a step with prompts may be. If they followed it, steps would grow without end.
  const bool mixed =
      features.decode_columns > 0 && features.prefill_columns + features.sparse_rows > 0;
  constexpr bool kOfPrompts[8] = {false, true, false, false, true, false, true, true};
  for (size_t i = 0; i < counts.size(); ++i) {
    if (mixed && !kOfPrompts[i]) continue;
    const double share = prices_[i] * counts[i] / predicted;
    prices_[i] = std::min(kMaxPrice, prices_[i] * std::exp(share * correction));
  }
}

StepCost StepCostFit::cost() const {
  return {.step_ps = ToPrice(prices_[0]),
          .row_ps = ToPrice(prices_[1]),
          .sequence_ps = ToPrice(prices_[2]),
          .sample_ps = ToPrice(prices_[3]),
          .prefill_column_ps = ToPrice(prices_[4]),
          .decode_column_ps = ToPrice(prices_[5]),
          .sparse_row_ps = ToPrice(prices_[6]),
          .scanned_column_ps = ToPrice(prices_[7])};
}

}  // namespace quire

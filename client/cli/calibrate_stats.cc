#include "client/cli/calibrate_stats.h"

#include <algorithm>
#include <cmath>
#include <random>

namespace quire::cli {
namespace {

double Ratio(double part, double whole, double otherwise) {
  return whole > 0 ? part / whole : otherwise;
}

// The standard's distributions differ from library to library.
size_t Draw(std::mt19937_64& random, size_t count) {
  const double uniform = static_cast<double>(random() >> 11) * 0x1p-53;
  return static_cast<size_t>(uniform * static_cast<double>(count));
}

struct Sums {
  double tokens = 0;
  double agreed = 0;
  double abs_delta = 0;
  void Add(const Measurement& m) {
    tokens += static_cast<double>(m.tokens);
    agreed += static_cast<double>(m.agreed);
    abs_delta += m.abs_delta;
  }
  double agreement() const { return Ratio(agreed, tokens, 1); }
  double drift() const { return Ratio(abs_delta, tokens, 0); }
};

// The value that a share of the others does not exceed.
double Quantile(std::vector<double>& values, double share) {
  const auto last = static_cast<double>(values.size() - 1);
  const auto at = static_cast<std::ptrdiff_t>(std::lround(share * last));
  std::nth_element(values.begin(), values.begin() + at, values.end());
  return values[static_cast<size_t>(at)];
}

Bounded Bounds(double value, std::vector<double> drawn, double confidence) {
  const double low = Quantile(drawn, 1 - confidence);
  return {value, std::min(low, value), std::max(Quantile(drawn, confidence), value)};
}

void SetBounds(absl::Span<const Measurement> measurements, const Bootstrap& bootstrap,
               EpsSummary& summary) {
  Sums all;
  for (const Measurement& m : measurements) all.Add(m);
  std::mt19937_64 random(bootstrap.seed);
  std::vector<double> agreements, drifts;
  for (int i = 0; i < std::max(bootstrap.samples, 1); ++i) {
    Sums sums;
    for (size_t k = 0; k < measurements.size(); ++k) {
      sums.Add(measurements[Draw(random, measurements.size())]);
    }
    agreements.push_back(sums.agreement());
    drifts.push_back(sums.drift());
  }
  summary.tokens = static_cast<int64_t>(all.tokens);
  summary.agreement =
      Bounds(all.agreement(), std::move(agreements), bootstrap.confidence);
  summary.drift = Bounds(all.drift(), std::move(drifts), bootstrap.confidence);
}

// Two digits, rounded up.
double TwoDigitsUp(double value) {
  const double scale = std::pow(10, std::floor(std::log10(value)) - 1);
  return std::ceil(value / scale - 1e-9) * scale;
}

// How many of the smallest hold, one after the other.
size_t HoldingFromBelow(absl::Span<const EpsSummary> summaries, const Wanted& wanted) {
  size_t count = 0;
  while (count < summaries.size() && Holds(summaries[count], wanted)) ++count;
  return count;
}

}  // namespace

EpsSummary Summarise(absl::Span<const Measurement> measurements,
                     const Bootstrap& bootstrap) {
  EpsSummary summary;
  summary.documents = static_cast<int>(measurements.size());
  double logprob = 0, dense_logprob = 0, columns = 0, dense_columns = 0;
  double macs = 0, dense_macs = 0;
  std::vector<double> speedups;
  double audited = 0, error = 0;
  for (const Measurement& m : measurements) {
    summary.eps = m.eps;
    logprob += m.logprob;
    dense_logprob += m.dense_logprob;
    columns += m.columns;
    dense_columns += m.dense_columns;
    macs += m.macs;
    dense_macs += m.dense_macs;
    speedups.push_back(Ratio(m.dense_seconds, m.seconds, 1));
    audited += static_cast<double>(m.audited_tokens);
    error += m.audited_error * static_cast<double>(m.audited_tokens);
    summary.max_audited_error = std::max(summary.max_audited_error, m.max_audited_error);
  }
  SetBounds(measurements, bootstrap, summary);
  const auto tokens = static_cast<double>(std::max<int64_t>(summary.tokens, 1));
  summary.perplexity_ratio = std::exp((dense_logprob - logprob) / tokens);
  summary.density = Ratio(columns, dense_columns, 1);
  summary.saved = 1 - Ratio(macs, dense_macs, 1);
  summary.speedup = Quantile(speedups, 0.5);
  summary.audited_error = Ratio(error, audited, 0);
  return summary;
}

bool Holds(const EpsSummary& summary, const Wanted& wanted) {
  if (wanted.agreement && summary.agreement.low < *wanted.agreement) return false;
  return !wanted.max_drift || summary.drift.high <= *wanted.max_drift;
}

Recommendation Recommend(absl::Span<const EpsSummary> summaries, const Wanted& wanted) {
  Recommendation result;
  const size_t holding = HoldingFromBelow(summaries, wanted);
  if (holding == 0) return result;
  const EpsSummary& best = summaries[holding - 1];
  if (best.saved <= 0) return result;
  result.eps = best.eps;
  if (best.max_audited_error > 0) {
    result.max_error = std::min(1.0, TwoDigitsUp(1.25 * best.max_audited_error));
  }
  return result;
}

std::optional<double> NextEps(absl::Span<const EpsSummary> summaries,
                              const Wanted& wanted) {
  if (summaries.empty()) return std::nullopt;
  const auto rounded = [](double eps) { return std::round(eps * 1e4) / 1e4; };
  const size_t holding = HoldingFromBelow(summaries, wanted);
  if (holding == 0) {
    const EpsSummary& smallest = summaries.front();
    const double half = rounded(smallest.eps / 2);
    if (smallest.saved <= 0 || half < kMinEps) return std::nullopt;
    return half;
  }
  const double below = summaries[holding - 1].eps;
  if (holding == summaries.size()) {
    return below < 0.5 ? std::optional(rounded(2 * below)) : std::nullopt;
  }
  const double above = summaries[holding].eps;
  if (above / below < 1.1) return std::nullopt;
  return rounded(std::sqrt(below * above));
}

}  // namespace quire::cli

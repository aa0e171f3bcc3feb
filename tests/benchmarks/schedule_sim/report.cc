#include "tests/benchmarks/schedule_sim/report.h"

#include "absl/strings/str_format.h"
#include "tests/support/quantile.h"

namespace quire::sim {
namespace {

double Fairness(const std::vector<double>& asked, const std::vector<double>& served) {
  double sum = 0, squares = 0, count = 0;
  for (size_t i = 0; i < asked.size(); ++i) {
    if (asked[i] == 0) continue;
    const double share = served[i] / asked[i];
    sum += share;
    squares += share * share;
    ++count;
  }
  return squares == 0 ? 0 : sum * sum / (count * squares);
}

}  // namespace

Summary Summarize(const SimulationResult& result) {
  Summary s;
  std::vector<double> ttft, gaps, asked, served;
  double tokens = 0, cached = 0, prompts = 0;
  for (const Outcome& o : result.outcomes) {
    ++s.requests;
    s.refused += o.refused;
    s.expired += o.expired;
    s.preemptions += o.preemptions;
    const Arrival& a = *o.arrival;
    if (asked.size() <= a.tenant) {
      asked.resize(a.tenant + 1);
      served.resize(a.tenant + 1);
    }
    const auto size = static_cast<double>(a.prompt_tokens + a.new_tokens);
    asked[a.tenant] += size;
    if (o.refused || o.expired || o.end_ns == 0) continue;
    ++s.finished;
    served[a.tenant] += size;
    tokens += size;
    prompts += static_cast<double>(a.prompt_tokens);
    cached += static_cast<double>(o.cached_tokens);
    ttft.push_back(static_cast<double>(o.first_token_ns - a.at_ns) * 1e-9);
    s.end_s += static_cast<double>(o.end_ns - a.at_ns) * 1e-9;
    for (const int64_t gap : o.gaps_ns) gaps.push_back(static_cast<double>(gap) * 1e-6);
  }
  s.seconds = static_cast<double>(result.end_ns) * 1e-9;
  const double quantiles[] = {.5, .9, .99};
  for (size_t i = 0; i < 3; ++i) {
    s.ttft_s[i] = Quantile(ttft, quantiles[i]);
    s.itl_ms[i] = Quantile(gaps, quantiles[i]);
  }
  if (s.finished > 0) s.end_s /= static_cast<double>(s.finished);
  if (s.seconds > 0) s.goodput_tokens = tokens / s.seconds;
  if (prompts > 0) s.cached_share = cached / prompts;
  s.fairness = Fairness(asked, served);
  s.busy_share = result.busy_share;
  return s;
}

std::string ToJson(const Summary& s) {
  return absl::StrFormat(
      "{\"requests\": %d, \"finished\": %d, \"refused\": %d, \"expired\": %d, "
      "\"preemptions\": %d, \"seconds\": %.1f, \"ttft_s\": {\"p50\": %.3f, \"p90\": "
      "%.3f, \"p99\": %.3f}, \"itl_ms\": {\"p50\": %.2f, \"p90\": %.2f, \"p99\": %.2f}, "
      "\"mean_end_s\": %.3f, \"goodput_tokens_per_s\": %.0f, \"cached_share\": %.3f, "
      "\"fairness\": %.3f, \"busy_share\": %.3f}",
      s.requests, s.finished, s.refused, s.expired, s.preemptions, s.seconds, s.ttft_s[0],
      s.ttft_s[1], s.ttft_s[2], s.itl_ms[0], s.itl_ms[1], s.itl_ms[2], s.end_s,
      s.goodput_tokens, s.cached_share, s.fairness, s.busy_share);
}

}  // namespace quire::sim

#include "core/sampling/sampler.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <iterator>
#include <limits>
#include <numeric>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "core/base/check.h"
#include "core/base/status_macros.h"
#include "core/sampling/counter_random.h"
#include "core/sampling/fast_exp.h"

namespace quire {
namespace {

constexpr float kNegativeInfinity = -std::numeric_limits<float>::infinity();

// NaN has no order; it counts as a token of probability 0.
float Ordered(float logit) { return std::isnan(logit) ? kNegativeInfinity : logit; }

struct Scored {
  float value = 0;
  TokenId token = 0;
};
bool Better(const Scored& a, const Scored& b) {
  return a.value > b.value || (a.value == b.value && a.token < b.token);
}

struct Weighted {
  double weight = 0;
  TokenId token = 0;
};
bool Heavier(const Weighted& a, const Weighted& b) {
  return a.weight > b.weight || (a.weight == b.weight && a.token < b.token);
}

constexpr size_t kLanes =
    8;  // independent sums and maxima, which a compiler can vectorise

// The largest value, NaN left out; -inf if there is none.
float Largest(absl::Span<const float> values) {
  std::array<float, kLanes> largest;
  largest.fill(kNegativeInfinity);
  size_t i = 0;
  for (; i + kLanes <= values.size(); i += kLanes) {
    for (size_t lane = 0; lane < kLanes; ++lane) {
      const float value = values[i + lane];
      largest[lane] = value > largest[lane] ? value : largest[lane];
    }
  }
  float result = *std::max_element(largest.begin(), largest.end());
  for (; i < values.size(); ++i) result = values[i] > result ? values[i] : result;
  return result;
}

// The largest value and its smallest id; token 0 if all are NaN or -inf.
Scored Best(absl::Span<const float> values) {
  const float largest = Largest(values);
  if (largest == kNegativeInfinity) return {largest, 0};
  const auto at = std::find(values.begin(), values.end(), largest);
  return {largest, static_cast<TokenId>(at - values.begin())};
}

// The k best, in no order. Keeps at most 2k that beat the k-th best so far, so one pass
// over the values is nearly all of the work. REQUIRES: 0 < k <= values.size().
std::vector<Scored> SelectBest(absl::Span<const float> values, size_t k) {
  std::vector<Scored> kept;
  kept.reserve(std::min(values.size(), 2 * k));
  bool full =
      false;  // k values at least `cut` were seen; an equal one later is worse by its id
  float cut = kNegativeInfinity;
  const auto shrink = [&] {
    std::nth_element(kept.begin(), kept.begin() + (k - 1), kept.end(), Better);
    kept.resize(k);
    full = true;
    cut = kept.back().value;
  };
  for (size_t i = 0; i < values.size(); ++i) {
    const float value = Ordered(values[i]);
    if (full && !(value > cut)) continue;
    kept.push_back({value, static_cast<TokenId>(i)});
    if (kept.size() == 2 * k) shrink();
  }
  if (kept.size() > k) shrink();
  return kept;
}

void ApplyPenalties(absl::Span<const TokenId> history, const SamplingParams& params,
                    absl::Span<float> logits) {
  absl::flat_hash_map<TokenId, int32_t> counts;
  for (const TokenId token : history) ++counts[token];
  for (const auto& [token, count] : counts) {
    if (token < 0 || static_cast<size_t>(token) >= logits.size()) continue;
    float& logit = logits[token];
    logit =
        logit > 0 ? logit / params.repetition_penalty : logit * params.repetition_penalty;
    logit -=
        params.presence_penalty + params.frequency_penalty * static_cast<float>(count);
  }
}

// Forbids each token that followed an earlier occurrence of the last n - 1 tokens.
// Returns the logits that it overwrote, in the order in which it did.
std::vector<Scored> BanRepeatedNgrams(absl::Span<const TokenId> history, size_t n,
                                      absl::Span<float> logits) {
  std::vector<Scored> banned;
  if (history.size() < n) return banned;
  const absl::Span<const TokenId> tail = history.last(n - 1);
  for (size_t begin = 0; begin + n <= history.size(); ++begin) {
    if (!std::equal(tail.begin(), tail.end(), history.begin() + begin)) continue;
    const TokenId token = history[begin + n - 1];
    if (token < 0 || static_cast<size_t>(token) >= logits.size()) continue;
    banned.push_back({std::exchange(logits[token], kNegativeInfinity), token});
  }
  return banned;
}

bool Penalizes(const SamplingParams& params) {
  return params.repetition_penalty != 1.0f || params.presence_penalty != 0.0f ||
         params.frequency_penalty != 0.0f;
}

// Logits after penalties and n-grams: the argument itself, or a copy in `storage`.
absl::Span<const float> Adjusted(absl::Span<const float> logits,
                                 const SamplingParams& params,
                                 absl::Span<const TokenId> history,
                                 std::vector<float>& storage) {
  if (history.empty() || !params.UsesHistory()) return logits;
  storage.assign(logits.begin(), logits.end());
  if (Penalizes(params)) ApplyPenalties(history, params, absl::MakeSpan(storage));
  if (params.no_repeat_ngram == 0) return storage;
  const absl::Span<float> copy = absl::MakeSpan(storage);
  const std::vector<Scored> banned =
      BanRepeatedNgrams(history, static_cast<size_t>(params.no_repeat_ngram), copy);
  if (banned.empty() || Best(copy).value != kNegativeInfinity) return storage;
  // A ban on everything that was possible is lifted: some token must be chosen.
  std::for_each(banned.rbegin(), banned.rend(),
                [&](const Scored& was) { copy[was.token] = was.value; });
  return storage;
}

double Sum(absl::Span<const double> values) {
  std::array<double, kLanes> sums{};
  size_t i = 0;
  for (; i + kLanes <= values.size(); i += kLanes) {
    for (size_t lane = 0; lane < kLanes; ++lane) sums[lane] += values[i + lane];
  }
  for (; i < values.size(); ++i) sums[0] += values[i];
  return std::accumulate(sums.begin(), sums.end(), 0.0);
}

// exp((logits[i] - best) / temperature), 0 for NaN. If `best`, the largest logit, is
// +inf, its equals share everything. REQUIRES: best > -inf.
void Weights(absl::Span<const float> logits, float best, double temperature,
             absl::Span<double> weights) {
  if (std::isinf(best)) {
    for (size_t i = 0; i < logits.size(); ++i) weights[i] = logits[i] == best ? 1.0 : 0.0;
    return;
  }
  const double offset = best;
  const double scale = 1.0 / temperature;
  const float* const from = logits.data();
  double* const to = weights.data();
  for (size_t i = 0, n = logits.size(); i < n; ++i)
    to[i] = FastExp((from[i] - offset) * scale);
}

// The tokens that may be drawn, by id, and their weights: probabilities up to a common
// factor, the best token's is 1. A filter sets the weight of what it excludes to 0.
struct Candidates {
  std::vector<TokenId> tokens;
  std::vector<double> weights;
};

Candidates TopK(absl::Span<const float> logits, float best,
                const SamplingParams& params) {
  Candidates candidates;
  const size_t k = static_cast<size_t>(params.top_k);
  std::vector<float> kept_logits;
  if (k == 0 || k >= logits.size()) {
    candidates.tokens.resize(logits.size());
    std::iota(candidates.tokens.begin(), candidates.tokens.end(), 0);
  } else {
    for (const Scored& kept : SelectBest(logits, k))
      candidates.tokens.push_back(kept.token);
    std::sort(candidates.tokens.begin(), candidates.tokens.end());
    for (const TokenId token : candidates.tokens) kept_logits.push_back(logits[token]);
    logits = kept_logits;
  }
  candidates.weights.resize(logits.size());
  Weights(logits, best, params.temperature, absl::MakeSpan(candidates.weights));
  return candidates;
}

// The lightest token of the smallest set of heaviest tokens that weighs `needed` or more.
// Halves the range that holds it by selection: linear time on average, nothing is sorted.
Weighted LightestNeeded(std::vector<Weighted>& tokens, double needed) {
  auto begin = tokens.begin();
  auto end = tokens.end();
  while (end - begin > 1) {
    const auto middle = begin + (end - begin) / 2;
    std::nth_element(begin, middle, end, Heavier);
    double heavier = 0;
    for (auto it = begin; it != middle; ++it) heavier += it->weight;
    if (heavier >= needed) {
      end = middle;
    } else {
      needed -= heavier;
      begin = middle;
    }
  }
  return *begin;
}

// Keeps the smallest set of heaviest tokens whose share is top_p or more (Holtzman et
// al., arXiv 1904.09751).
void CutTopP(float top_p, Candidates& candidates) {
  if (top_p >= 1.0f) return;
  const absl::Span<double> weights = absl::MakeSpan(candidates.weights);
  const double total = Sum(weights);
  // All tokens lighter than this together weigh less than 1 - top_p: none is needed.
  const double negligible = total * (1.0 - top_p) / static_cast<double>(weights.size());
  std::vector<Weighted> likely;
  for (size_t i = 0; i < weights.size(); ++i) {
    if (weights[i] >= negligible) likely.push_back({weights[i], candidates.tokens[i]});
  }
  const Weighted last = LightestNeeded(likely, total * top_p);
  for (size_t i = 0; i < weights.size(); ++i) {
    if (Heavier(last, {weights[i], candidates.tokens[i]})) weights[i] = 0;
  }
}

// Keeps what is at least min_p times as probable as the best token (Nguyen et al., arXiv
// 2407.01082).
void CutMinP(float min_p, Candidates& candidates) {
  if (min_p == 0.0f) return;
  for (double& weight : candidates.weights) weight = weight >= min_p ? weight : 0.0;
}

// The token under `point` in [0, 1) when the weights are laid side by side by id.
TokenId Draw(const Candidates& candidates, double point) {
  const absl::Span<const double> weights(candidates.weights);
  const double target = point * Sum(weights);
  double sum = 0;
  size_t last = 0;
  for (size_t i = 0; i < weights.size(); ++i) {
    if (weights[i] == 0) continue;
    last = i;
    sum += weights[i];
    if (sum > target) break;
  }
  return candidates.tokens[last];
}

// ln of the sum of exp(logit - best); 0 when no logit is above -inf.
double LogTotal(absl::Span<const float> logits, float best) {
  constexpr size_t kPiece = 512;
  std::array<double, kPiece> weights;
  double total = 0;
  for (size_t begin = 0; begin < logits.size() && best > kNegativeInfinity;
       begin += kPiece) {
    const absl::Span<const float> piece = logits.subspan(begin, kPiece);
    const absl::Span<double> piece_weights(weights.data(), piece.size());
    Weights(piece, best, 1.0, piece_weights);
    total += Sum(piece_weights);
  }
  return total == 0 ? 0 : std::log(total);
}

float LogprobGiven(float logit, float best, double log_total) {
  if (Ordered(logit) == kNegativeInfinity) return kNegativeInfinity;
  const double below_best = logit == best ? 0.0 : static_cast<double>(logit) - best;
  return static_cast<float>(below_best - log_total);
}

absl::Status InRange(bool in_range, absl::string_view field, absl::string_view limits,
                     float value) {
  if (in_range) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("sampling.", field, " is ", value, "; it must be ", limits));
}

}  // namespace

absl::Status SamplingParams::Validate() const {
  const auto between = [](float value, float least, float most) {
    return value >= least && value <= most;  // false for NaN
  };
  QUIRE_RETURN_IF_ERROR(
      InRange(between(temperature, 0, 100), "temperature", "in [0, 100]", temperature));
  if (top_k < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("sampling.top_k is ", top_k, "; it must be >= 0"));
  }
  QUIRE_RETURN_IF_ERROR(InRange(top_p > 0 && top_p <= 1, "top_p", "in (0, 1]", top_p));
  QUIRE_RETURN_IF_ERROR(InRange(between(min_p, 0, 1), "min_p", "in [0, 1]", min_p));
  QUIRE_RETURN_IF_ERROR(InRange(between(repetition_penalty, 0.01f, 100),
                                "repetition_penalty", "in [0.01, 100]",
                                repetition_penalty));
  QUIRE_RETURN_IF_ERROR(InRange(between(presence_penalty, -10, 10), "presence_penalty",
                                "in [-10, 10]", presence_penalty));
  QUIRE_RETURN_IF_ERROR(InRange(between(frequency_penalty, -10, 10), "frequency_penalty",
                                "in [-10, 10]", frequency_penalty));
  if (no_repeat_ngram < 0) {
    return absl::InvalidArgumentError(absl::StrCat("sampling.no_repeat_ngram is ",
                                                   no_repeat_ngram, "; it must be >= 0"));
  }
  return absl::OkStatus();
}

bool SamplingParams::UsesHistory() const {
  return Penalizes(*this) || no_repeat_ngram > 0;
}

// core/kernels/cuda/sample.cu chooses alike: a change here is one there.
TokenId Sample(absl::Span<const float> logits, const SamplingParams& params,
               absl::Span<const TokenId> history, int64_t step) {
  QUIRE_CHECK(!logits.empty());
  std::vector<float> storage;
  const absl::Span<const float> adjusted = Adjusted(logits, params, history, storage);
  const Scored best = Best(adjusted);
  if (params.temperature == 0 || best.value == kNegativeInfinity) return best.token;
  Candidates candidates = TopK(adjusted, best.value, params);
  CutTopP(params.top_p, candidates);
  CutMinP(params.min_p, candidates);
  return Draw(candidates, UniformAt(params.seed, step));
}

float Logprob(absl::Span<const float> logits, TokenId token) {
  QUIRE_CHECK(token >= 0 && static_cast<size_t>(token) < logits.size());
  const float best = Best(logits).value;
  return LogprobGiven(logits[token], best, LogTotal(logits, best));
}

int32_t Rank(absl::Span<const float> logits, TokenId token) {
  QUIRE_CHECK(token >= 0 && static_cast<size_t>(token) < logits.size());
  const float logit = Ordered(logits[token]);
  int32_t larger = 0;
  for (const float other : logits) larger += other > logit ? 1 : 0;
  return 1 + larger;
}

std::vector<TokenLogprob> TopLogprobs(absl::Span<const float> logits, int32_t n) {
  const size_t k = std::min(static_cast<size_t>(std::max(n, 0)), logits.size());
  if (k == 0) return {};
  std::vector<Scored> kept = SelectBest(logits, k);
  std::sort(kept.begin(), kept.end(), Better);
  const float best = kept.front().value;
  const double log_total = LogTotal(logits, best);
  std::vector<TokenLogprob> top;
  for (const Scored& scored : kept) {
    top.push_back({scored.token, LogprobGiven(scored.value, best, log_total)});
  }
  return top;
}

}  // namespace quire

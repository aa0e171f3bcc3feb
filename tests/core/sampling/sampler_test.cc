#include "core/sampling/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "core/sampling/counter_random.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace quire {
namespace {

using ::testing::ElementsAre;

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// The definition in sampler.h, word for word and without haste: the probability of each
// token.
class Oracle {
 public:
  Oracle(std::vector<float> logits, const SamplingParams& params,
         const std::vector<TokenId>& history)
      : logits_(std::move(logits)), params_(params), history_(history) {
    Penalize();
    Ban();
    if (params_.temperature == 0) return;
    Temper();
    std::vector<TokenId> order(weights_.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(),
                     [&](TokenId a, TokenId b) { return weights_[a] > weights_[b]; });
    TopK(order);
    TopP(order);
    for (double& weight : weights_) {
      if (weight < params_.min_p) weight = 0;
    }
  }

  TokenId Choose(double point) const {
    if (params_.temperature == 0) {
      return static_cast<TokenId>(std::max_element(logits_.begin(), logits_.end()) -
                                  logits_.begin());
    }
    const double total = std::accumulate(weights_.begin(), weights_.end(), 0.0);
    double sum = 0;
    for (size_t i = 0; i < weights_.size(); ++i) {
      sum += weights_[i];
      if (sum > point * total) return static_cast<TokenId>(i);
    }
    return -1;
  }
  int NumPossible() const {
    return static_cast<int>(weights_.size() -
                            std::count(weights_.begin(), weights_.end(), 0.0));
  }

 private:
  void Penalize() {
    std::map<TokenId, int> counts;
    for (const TokenId token : history_) ++counts[token];
    for (const auto& [token, count] : counts) {
      float& logit = logits_[token];
      logit = logit > 0 ? logit / params_.repetition_penalty
                        : logit * params_.repetition_penalty;
      logit -= params_.presence_penalty + params_.frequency_penalty * count;
    }
  }
  void Ban() {
    const int n = params_.no_repeat_ngram;
    const int size = static_cast<int>(history_.size());
    if (n == 0 || size < n) return;
    for (TokenId token = 0; token < static_cast<TokenId>(logits_.size()); ++token) {
      std::vector<TokenId> next(history_.end() - (n - 1), history_.end());
      next.push_back(token);
      if (std::search(history_.begin(), history_.end(), next.begin(), next.end()) !=
          history_.end()) {
        logits_[token] = -kInf;
      }
    }
  }
  void Temper() {
    const double best = *std::max_element(logits_.begin(), logits_.end());
    for (const float logit : logits_) {
      weights_.push_back(std::exp((logit - best) / params_.temperature));
    }
  }
  void TopK(const std::vector<TokenId>& order) {
    if (params_.top_k == 0) return;
    for (size_t i = params_.top_k; i < order.size(); ++i) weights_[order[i]] = 0;
  }
  void TopP(const std::vector<TokenId>& order) {
    const double total = std::accumulate(weights_.begin(), weights_.end(), 0.0);
    double sum = 0;
    for (const TokenId token : order) {
      const bool complete = params_.top_p < 1 && sum >= params_.top_p * total;
      sum += weights_[token];
      if (complete) weights_[token] = 0;
    }
  }

  std::vector<float> logits_;
  std::vector<double> weights_;
  const SamplingParams params_;
  const std::vector<TokenId> history_;
};

SamplingParams RandomParams(std::mt19937& random) {
  const auto pick = [&](auto... values) {
    const std::vector<double> all{static_cast<double>(values)...};
    return all[random() % all.size()];
  };
  SamplingParams params;
  params.temperature = static_cast<float>(pick(0, 0.25, 0.7, 1, 1, 3));
  params.top_k = static_cast<int32_t>(pick(0, 0, 1, 2, 7, 40, 5000));
  params.top_p = static_cast<float>(pick(1, 1, 0.001, 0.3, 0.9, 0.999));
  params.min_p = static_cast<float>(pick(0, 0, 0.01, 0.2, 1));
  params.repetition_penalty = static_cast<float>(pick(1, 1, 1.3, 0.5));
  params.presence_penalty = static_cast<float>(pick(0, 0, 0.5, -1));
  params.frequency_penalty = static_cast<float>(pick(0, 0, 0.25, -0.5));
  params.no_repeat_ngram = static_cast<int32_t>(pick(0, 0, 1, 2, 3));
  params.seed = random();
  return params;
}

// Few distinct values, so that ties are common, and some -inf.
std::vector<float> RandomLogits(std::mt19937& random, size_t vocab) {
  const bool coarse = random() % 2 == 0;
  std::normal_distribution<float> normal(0, 3);
  std::vector<float> logits(vocab);
  for (float& logit : logits) {
    logit = normal(random);
    if (coarse) logit = std::round(logit);
    if (random() % 50 == 0) logit = -kInf;
  }
  logits[random() % vocab] = 4;  // something is always possible
  return logits;
}

TEST(SamplerPropertyTest, AgreesWithThePlainDefinition) {
  std::mt19937 random(20241124);
  for (int trial = 0; trial < 4000; ++trial) {
    const size_t vocab = 2 + random() % (trial % 10 == 0 ? 2000 : 60);
    const std::vector<float> logits = RandomLogits(random, vocab);
    const SamplingParams params = RandomParams(random);
    std::vector<TokenId> history(random() % (vocab / 2));  // never bans all
    for (TokenId& token : history) token = static_cast<TokenId>(random() % vocab);
    const Oracle oracle(logits, params, history);
    for (int64_t step = 0; step < 4; ++step) {
      ASSERT_EQ(Sample(logits, params, history, step),
                oracle.Choose(UniformAt(params.seed, step)))
          << "trial " << trial << " vocab " << vocab << " possible "
          << oracle.NumPossible();
    }
  }
}

// Chi-square of `counts` against `probabilities`.
double ChiSquare(const std::vector<int>& counts, const std::vector<double>& probabilities,
                 int draws) {
  double sum = 0;
  for (size_t i = 0; i < counts.size(); ++i) {
    const double expected = probabilities[i] * draws;
    sum += (counts[i] - expected) * (counts[i] - expected) / expected;
  }
  return sum;
}

TEST(SamplerTest, DrawsWithTheTemperedProbabilities) {
  const std::vector<float> logits = {0, 2, -1, 1, 0.5f, 2, -2, 1.5f};
  SamplingParams params{.temperature = 2.0f};
  std::vector<double> probabilities;
  for (const float logit : logits) probabilities.push_back(std::exp(logit / 2.0));
  const double total = std::accumulate(probabilities.begin(), probabilities.end(), 0.0);
  for (double& probability : probabilities) probability /= total;
  constexpr int kDraws = 40000;
  std::vector<int> by_step(8), by_seed(8);
  for (int i = 0; i < kDraws; ++i) {
    params.seed = 17;
    ++by_step[Sample(logits, params, {}, i)];
    params.seed = static_cast<uint64_t>(i);
    ++by_seed[Sample(logits, params, {}, 3)];
  }
  // 7 degrees of freedom: beyond 29.9 with probability 1e-4. The draw is fixed, so is the
  // result.
  EXPECT_LT(ChiSquare(by_step, probabilities, kDraws), 29.9);
  EXPECT_LT(ChiSquare(by_seed, probabilities, kDraws), 29.9);
}

TEST(SamplerTest, NextStepsAndNextSeedsAreIndependent) {
  constexpr int kPairs = 40000;
  std::vector<int> steps(16), seeds(16);
  for (int i = 0; i < kPairs; ++i) {
    const auto quarter = [](double point) { return static_cast<int>(point * 4); };
    ++steps[quarter(UniformAt(5, i)) * 4 + quarter(UniformAt(5, i + 1))];
    ++seeds[quarter(UniformAt(i, 0)) * 4 + quarter(UniformAt(i + 1, 0))];
  }
  const std::vector<double> uniform(16, 1.0 / 16);
  EXPECT_LT(ChiSquare(steps, uniform, kPairs), 44.3);  // 15 degrees of freedom, 1e-4
  EXPECT_LT(ChiSquare(seeds, uniform, kPairs), 44.3);
}

TEST(SamplerTest, RandomNumbersAreFixedForEver) {
  EXPECT_EQ(UniformAt(0, 0), 0x14e0dba5e9a32f * 0x1p-53);
  EXPECT_EQ(UniformAt(0, 1), 0x16705460be8829 * 0x1p-53);
  EXPECT_EQ(UniformAt(1, 0), 0xbc835610e872c * 0x1p-53);
  EXPECT_EQ(UniformAt(42, 7), 0x1782d47a99890c * 0x1p-53);
  EXPECT_EQ(UniformAt(~uint64_t{0}, 1000000), 0xec196c7fef598 * 0x1p-53);
}

TEST(SamplerTest, SameSeedAndStepSameToken) {
  std::mt19937 random(1);
  const std::vector<float> logits = RandomLogits(random, 500);
  SamplingParams params{.temperature = 1.5f, .seed = 99};
  std::vector<TokenId> first, again, other;
  for (int64_t step = 0; step < 50; ++step) {
    first.push_back(Sample(logits, params, {}, step));
  }
  for (int64_t step = 49; step >= 0; --step) {
    again.insert(again.begin(), Sample(logits, params, {}, step));
  }
  params.seed = 100;
  for (int64_t step = 0; step < 50; ++step) {
    other.push_back(Sample(logits, params, {}, step));
  }
  EXPECT_EQ(first, again);
  EXPECT_NE(first, other);
}

// The tokens that 300 draws give.
std::vector<TokenId> Possible(const std::vector<float>& logits, SamplingParams params,
                              const std::vector<TokenId>& history = {}) {
  std::vector<TokenId> tokens;
  for (int64_t step = 0; step < 300; ++step) {
    tokens.push_back(Sample(logits, params, history, step));
  }
  std::sort(tokens.begin(), tokens.end());
  tokens.erase(std::unique(tokens.begin(), tokens.end()), tokens.end());
  return tokens;
}

TEST(SamplerTest, TiesGoToTheSmallerId) {
  const std::vector<float> equal = {1, 2, 2, 2, 2, 0};
  EXPECT_EQ(Sample(equal, {}, {}, 0), 1);
  EXPECT_THAT(Possible(equal, {.temperature = 1, .top_k = 2}), ElementsAre(1, 2));
  EXPECT_THAT(Possible({3, 3, 3, 3}, {.temperature = 1, .top_p = 0.5f}),
              ElementsAre(0, 1));
}

TEST(SamplerTest, FiltersAtTheirEdges) {
  const std::vector<float> logits = {std::log(1.0f), std::log(2.0f), std::log(4.0f),
                                     std::log(1.0f)};  // 1/8, 1/4, 1/2, 1/8
  EXPECT_THAT(Possible(logits, {.temperature = 1, .top_k = 1}), ElementsAre(2));
  EXPECT_THAT(Possible(logits, {.temperature = 1, .top_k = 9}), ElementsAre(0, 1, 2, 3));
  EXPECT_THAT(Possible(logits, {.temperature = 1, .top_p = 1e-30f}), ElementsAre(2));
  EXPECT_THAT(Possible(logits, {.temperature = 1, .top_p = 0.51f}), ElementsAre(1, 2));
  EXPECT_THAT(Possible(logits, {.temperature = 1, .top_p = 0.8f}), ElementsAre(0, 1, 2));
  EXPECT_THAT(Possible(logits, {.temperature = 1, .min_p = 0.49f}), ElementsAre(1, 2));
  EXPECT_THAT(Possible(logits, {.temperature = 1, .min_p = 1}), ElementsAre(2));
  // top_p is a share of what top_k left: 2/3 of {1/2, 1/4} is the first alone.
  EXPECT_THAT(Possible(logits, {.temperature = 1, .top_k = 2, .top_p = 0.66f}),
              ElementsAre(2));
  EXPECT_THAT(Possible(logits, {.temperature = 1e-20f}), ElementsAre(2));
}

TEST(SamplerTest, PenaltiesByHand) {
  const std::vector<float> logits = {2.0f, -1.0f, 1.5f};
  // 2 / 2 = 1 < 1.5; -1 * 0.5 stays below.
  EXPECT_EQ(Sample(logits, {.repetition_penalty = 2}, {0}, 0), 2);
  EXPECT_EQ(Sample(logits, {.repetition_penalty = 1.25f}, {0}, 0), 0);  // 1.6
  EXPECT_EQ(Sample(logits, {.presence_penalty = 0.4f}, {0, 0, 0}, 0), 0);
  EXPECT_EQ(Sample(logits, {.frequency_penalty = 0.4f}, {0, 0}, 0), 2);
  EXPECT_EQ(Sample(logits, {.presence_penalty = -4}, {1}, 0), 1);
  // Negative logits are multiplied: -1 * 3 loses against -2.
  EXPECT_EQ(Sample({{-1.0f, -2.0f}}, {.repetition_penalty = 3}, {0}, 0), 1);
}

TEST(SamplerTest, NoNgramTwice) {
  const std::vector<float> logits = {5, 4, 3, 2};
  EXPECT_EQ(Sample(logits, {.no_repeat_ngram = 1}, {0, 1}, 0), 2);
  EXPECT_EQ(Sample(logits, {.no_repeat_ngram = 2}, {1, 0, 2, 1}, 0), 1);  // 1 0 was there
  EXPECT_EQ(Sample(logits, {.no_repeat_ngram = 3}, {1, 0, 2, 1}, 0), 0);
  EXPECT_EQ(Sample(logits, {.no_repeat_ngram = 3}, {2, 1, 0, 2, 1}, 0), 1);
  EXPECT_EQ(Sample(logits, {.no_repeat_ngram = 6}, {2, 1, 0, 2, 1}, 0), 0);
  EXPECT_EQ(Sample(logits, {.no_repeat_ngram = 2}, {0, 0}, 0), 1);
}

TEST(SamplerTest, BanOnEverythingIsLifted) {
  EXPECT_EQ(Sample({{1.0f, 3.0f, 2.0f}}, {.no_repeat_ngram = 1}, {2, 1, 0, 1}, 0), 1);
  EXPECT_EQ(Sample({{-kInf, 3.0f}}, {.no_repeat_ngram = 1}, {1}, 0), 1);
}

TEST(SamplerTest, HistoryOutsideTheVocabularyIsIgnored) {
  const SamplingParams params{.repetition_penalty = 2, .no_repeat_ngram = 1};
  EXPECT_EQ(Sample({{1.0f, 3.0f}}, params, {-1, 2, 1000}, 0), 1);
}

TEST(SamplerTest, NanIsNeverChosen) {
  const std::vector<float> logits = {kNan, 1, kNan, 2, kNan};
  EXPECT_EQ(Sample(logits, {}, {}, 0), 3);
  EXPECT_EQ(Sample(logits, {.repetition_penalty = 2}, {0, 3}, 0), 1);
  EXPECT_THAT(Possible(logits, {.temperature = 5}), ElementsAre(1, 3));
  EXPECT_THAT(Possible(logits, {.temperature = 5, .top_k = 3}), ElementsAre(1, 3));
  EXPECT_THAT(Possible(logits, {.temperature = 5, .top_p = 0.99f}), ElementsAre(1, 3));
}

TEST(SamplerTest, NothingPossibleIsTokenZero) {
  for (const std::vector<float>& logits :
       {std::vector<float>{kNan, kNan}, {-kInf, -kInf}, {kNan, -kInf, kNan}}) {
    EXPECT_EQ(Sample(logits, {}, {}, 0), 0);
    EXPECT_EQ(Sample(logits, {.temperature = 1, .top_k = 1, .top_p = 0.5f}, {}, 0), 0);
  }
}

TEST(SamplerTest, InfiniteLogitsShareEverything) {
  EXPECT_THAT(Possible({1, kInf, 100, kInf}, {.temperature = 1}), ElementsAre(1, 3));
  EXPECT_EQ(Sample({{1.0f, kInf, 100.0f, kInf}}, {}, {}, 0), 1);
}

TEST(LogprobTest, IsTheLogSoftmax) {
  const std::vector<float> logits = {std::log(1.0f), std::log(2.0f), std::log(5.0f)};
  EXPECT_FLOAT_EQ(Logprob(logits, 0), std::log(0.125f));
  EXPECT_FLOAT_EQ(Logprob(logits, 2), std::log(0.625f));
  EXPECT_FLOAT_EQ(Logprob({{1000.0f, 999.0f}}, 1), -1.3132617f);
  EXPECT_EQ(Logprob({{3.0f}}, 0), 0.0f);
}

TEST(LogprobTest, NotNumbers) {
  const std::vector<float> logits = {kNan, 0, -kInf, 0};
  EXPECT_EQ(Logprob(logits, 0), -kInf);
  EXPECT_EQ(Logprob(logits, 2), -kInf);
  EXPECT_FLOAT_EQ(Logprob(logits, 1), std::log(0.5f));
  EXPECT_FLOAT_EQ(Logprob({{kInf, 0.0f, kInf}}, 2), std::log(0.5f));
  EXPECT_EQ(Logprob({{kInf, 0.0f}}, 1), -kInf);
  EXPECT_EQ(Logprob({{kNan, -kInf}}, 1), -kInf);
}

TEST(LogprobTest, SumsALargeVocabularyWithoutLosingDigits) {
  const std::vector<float> logits(152064, 7.5f);
  EXPECT_FLOAT_EQ(Logprob(logits, 152063), -std::log(152064.0f));
}

TEST(RankTest, CountsLargerLogits) {
  const std::vector<float> logits = {1, 3, kNan, 3, 2};
  EXPECT_EQ(Rank(logits, 1), 1);
  EXPECT_EQ(Rank(logits, 3), 1);
  EXPECT_EQ(Rank(logits, 4), 3);
  EXPECT_EQ(Rank(logits, 0), 4);
  EXPECT_EQ(Rank(logits, 2), 5);
}

TEST(TopLogprobsTest, BestFirstTiesByIdCutToTheVocabulary) {
  const std::vector<float> logits = {0, std::log(2.0f), 0, std::log(4.0f)};
  const std::vector<TokenLogprob> top = TopLogprobs(logits, 9);
  ASSERT_EQ(top.size(), 4u);
  EXPECT_EQ(top[0].token, 3);
  EXPECT_FLOAT_EQ(top[0].logprob, std::log(0.5f));
  EXPECT_EQ(top[1].token, 1);
  EXPECT_EQ(top[2].token, 0);
  EXPECT_EQ(top[3].token, 2);
  EXPECT_FLOAT_EQ(top[3].logprob, std::log(0.125f));
  EXPECT_TRUE(TopLogprobs(logits, 0).empty());
  EXPECT_TRUE(TopLogprobs(logits, -3).empty());
}

TEST(TopLogprobsTest, AgreesWithSortingEverything) {
  std::mt19937 random(7);
  for (int trial = 0; trial < 300; ++trial) {
    std::vector<float> logits = RandomLogits(random, 1 + random() % 300);
    logits[random() % logits.size()] = kNan;
    const int32_t n = static_cast<int32_t>(1 + random() % 20);
    std::vector<TokenId> order(logits.size());
    std::iota(order.begin(), order.end(), 0);
    const auto key = [&](TokenId i) { return std::isnan(logits[i]) ? -kInf : logits[i]; };
    std::stable_sort(order.begin(), order.end(),
                     [&](TokenId a, TokenId b) { return key(a) > key(b); });
    const std::vector<TokenLogprob> top = TopLogprobs(logits, n);
    ASSERT_EQ(top.size(), std::min<size_t>(n, logits.size()));
    for (size_t i = 0; i < top.size(); ++i) {
      ASSERT_EQ(top[i].token, order[i]) << trial;
      ASSERT_EQ(top[i].logprob, Logprob(logits, order[i])) << trial;
    }
  }
}

struct Refusal {
  SamplingParams params;
  std::string message;
};

TEST(SamplingParamsTest, RefusesWithFieldLimitAndValue) {
  const std::vector<Refusal> refusals = {
      {{.temperature = -0.5f}, "sampling.temperature is -0.5; it must be in [0, 100]"},
      {{.temperature = 101}, "sampling.temperature is 101; it must be in [0, 100]"},
      {{.temperature = kNan}, "sampling.temperature is nan; it must be in [0, 100]"},
      {{.temperature = kInf}, "sampling.temperature is inf; it must be in [0, 100]"},
      {{.top_k = -1}, "sampling.top_k is -1; it must be >= 0"},
      {{.top_p = 0}, "sampling.top_p is 0; it must be in (0, 1]"},
      {{.top_p = 1.5f}, "sampling.top_p is 1.5; it must be in (0, 1]"},
      {{.top_p = kNan}, "sampling.top_p is nan; it must be in (0, 1]"},
      {{.min_p = -0.25f}, "sampling.min_p is -0.25; it must be in [0, 1]"},
      {{.min_p = kNan}, "sampling.min_p is nan; it must be in [0, 1]"},
      {{.repetition_penalty = 0},
       "sampling.repetition_penalty is 0; it must be in [0.01, 100]"},
      {{.repetition_penalty = kNan},
       "sampling.repetition_penalty is nan; it must be in [0.01, 100]"},
      {{.presence_penalty = 10.5f},
       "sampling.presence_penalty is 10.5; it must be in [-10, 10]"},
      {{.frequency_penalty = -11},
       "sampling.frequency_penalty is -11; it must be in [-10, 10]"},
      {{.frequency_penalty = kNan},
       "sampling.frequency_penalty is nan; it must be in [-10, 10]"},
      {{.no_repeat_ngram = -2}, "sampling.no_repeat_ngram is -2; it must be >= 0"},
  };
  for (const Refusal& refusal : refusals) {
    EXPECT_EQ(refusal.params.Validate(), absl::InvalidArgumentError(refusal.message));
  }
}

TEST(SamplingParamsTest, AcceptsTheLimitsThemselves) {
  EXPECT_EQ(SamplingParams{}.Validate(), absl::OkStatus());
  const SamplingParams most{.temperature = 100,
                            .top_k = std::numeric_limits<int32_t>::max(),
                            .top_p = 1,
                            .min_p = 1,
                            .repetition_penalty = 100,
                            .presence_penalty = 10,
                            .frequency_penalty = 10,
                            .no_repeat_ngram = std::numeric_limits<int32_t>::max()};
  EXPECT_EQ(most.Validate(), absl::OkStatus());
  const SamplingParams least{.top_p = 1e-38f,
                             .repetition_penalty = 0.01f,
                             .presence_penalty = -10,
                             .frequency_penalty = -10};
  EXPECT_EQ(least.Validate(), absl::OkStatus());
}

TEST(SamplingParamsTest, SaysWhetherItLooksAtTheHistory) {
  EXPECT_FALSE(SamplingParams{}.UsesHistory());
  EXPECT_FALSE((SamplingParams{.temperature = 1,
                               .top_k = 3,
                               .top_p = 0.5f,
                               .min_p = 0.1f,
                               .penalize_prompt = true,
                               .seed = 4}
                    .UsesHistory()));
  EXPECT_TRUE((SamplingParams{.repetition_penalty = 0.9f}.UsesHistory()));
  EXPECT_TRUE((SamplingParams{.presence_penalty = -1}.UsesHistory()));
  EXPECT_TRUE((SamplingParams{.frequency_penalty = 1}.UsesHistory()));
  EXPECT_TRUE((SamplingParams{.no_repeat_ngram = 1}.UsesHistory()));
}

TEST(SamplerTest, ExtremeParametersDoNotBreakIt) {
  const std::vector<float> logits = {1, 2, 3};
  const SamplingParams params{.temperature = 100,
                              .top_k = std::numeric_limits<int32_t>::max(),
                              .top_p = 1e-38f,
                              .min_p = 1,
                              .no_repeat_ngram = std::numeric_limits<int32_t>::max()};
  EXPECT_EQ(Sample(logits, params, {0, 1}, std::numeric_limits<int64_t>::max()), 2);
}

}  // namespace
}  // namespace quire

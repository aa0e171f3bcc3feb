#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "core/base/types.h"

namespace quire {

// How the next token is chosen. Plain value. Steps are applied in this order: repetition,
// presence and frequency penalties; no-repeat n-gram; temperature; top-k; top-p; min-p;
// draw.
struct SamplingParams {
  float temperature = 0.0f;  // [0, 100]; 0: greedy, the most probable token
  int32_t top_k = 0;         // >= 0; 0: no limit
  float top_p = 1.0f;        // (0, 1]
  float min_p = 0.0f;        // [0, 1]; share of the best token's probability
  float repetition_penalty =
      1.0f;  // [0.01, 100]; Keskar et al., CTRL (arXiv 1909.05858) eq. 4.1
  float presence_penalty = 0.0f;   // [-10, 10]; subtracted once from a token seen before
  float frequency_penalty = 0.0f;  // [-10, 10]; subtracted once for each time it was seen
  int32_t no_repeat_ngram = 0;  // >= 0; 0: off; n: no n-gram occurs twice in the history
  // Penalties and n-grams look at the generated part only, so that a document may be
  // quoted; true: at the prompt too.
  bool penalize_prompt = false;
  uint64_t seed = 0;

  // kInvalidArgument names the field ("sampling.top_p"), its limits and its value. NaN is
  // refused.
  absl::Status Validate() const;
  // Whether penalties or n-grams change anything, given a history.
  bool UsesHistory() const;
};

struct TokenLogprob {
  TokenId token = 0;
  float logprob = 0;  // natural log, of the model's own distribution
  friend bool operator==(const TokenLogprob&, const TokenLogprob&) = default;
};

// Chooses one token. Pure: the token depends only on the arguments, never on how the
// request was batched or when. logits: [vocab]. history: the tokens that penalties look
// at, oldest first. step: index of the token being generated, it decides the random draw
// with the seed. Ties go to the smaller id. Each of top-k, top-p and min-p looks at what
// the one before left. A NaN logit counts as -inf: it is never chosen, here and below.
// When n-grams forbid every token that has a probability they are not applied; when no
// token has one, 0 is returned. REQUIRES: params valid, logits not empty.
TokenId Sample(absl::Span<const float> logits, const SamplingParams& params,
               absl::Span<const TokenId> history, int64_t step);

// log softmax(logits)[token], computed in double; -inf for a NaN logit.
// REQUIRES: 0 <= token < vocab.
float Logprob(absl::Span<const float> logits, TokenId token);

// 1 + the number of tokens with a larger logit. REQUIRES: 0 <= token < vocab.
int32_t Rank(absl::Span<const float> logits, TokenId token);

// The n most probable tokens, best first; ties go to the smaller id. n is cut to vocab.
std::vector<TokenLogprob> TopLogprobs(absl::Span<const float> logits, int32_t n);

}  // namespace quire

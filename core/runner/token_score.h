#pragma once

#include "absl/types/span.h"
#include "core/step/step.h"

namespace quire {

// What is told of a token, from its row of logits and the log of the sum of their
// exponentials. rank: fill TokenScore::rank; top: how many alternatives.
inline TokenScore ScoreToken(absl::Span<const float> logits, float log_sum, TokenId token,
                             bool rank, int32_t top) {
  TokenScore score;
  score.token = token;
  score.logprob = logits[token] - log_sum;
  if (rank) score.rank = Rank(logits, token);
  if (top > 0) score.top = TopLogprobs(logits, top);
  return score;
}

}  // namespace quire

#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "core/base/types.h"
#include "core/sampling/sampler.h"

namespace quire {

// One sequence's share of a step: a prompt chunk, or a single decode token.
struct StepItem {
  RequestId id{};
  Position begin = 0;  // position of tokens[0]; all before it is in the cache
  absl::Span<const TokenId> tokens;  // never empty
  absl::Span<const BlockId> blocks;  // cover [0, begin + tokens.size()); see KvGeometry

  // The next token is wanted: set on a prompt's last chunk and on every decode item.
  bool sample = false;
  SamplingParams sampling;
  absl::Span<const TokenId> history;  // tokens that penalties look at, oldest first
  int64_t sample_step = 0;            // index of the token to sample within the answer

  // Scoring: targets[i] is the token whose probability is wanted after tokens[i].
  // Empty: nothing is scored. Otherwise as long as tokens; kNoTarget skips a position.
  absl::Span<const TokenId> targets;
  bool ranks = false;  // fill TokenScore::rank

  int32_t top_logprobs = 0;  // how many alternatives to report, for sample and targets
};

inline constexpr TokenId kNoTarget = -1;

struct TokenScore {
  TokenId token = 0;
  float logprob = 0;              // natural log, of the model's own distribution
  int32_t rank = 0;               // 1: the most probable token; 0: not asked for
  std::vector<TokenLogprob> top;  // most probable first
};

struct StepResult {
  RequestId id{};
  std::optional<TokenScore> sampled;  // set iff the item asked to sample
  std::vector<TokenScore> scores;  // one for each target that is not kNoTarget, in order
};

struct StepInput {
  std::vector<StepItem> items;
  std::vector<RequestId> released;  // finished since the last step: drop their state
};

// The one seam between scheduling (no Torch, no GPU) and computing (all of it).
class ModelRunner {
 public:
  virtual ~ModelRunner() = default;
  // Results are in item order. Called by one thread at a time.
  // kInvalidArgument: an item breaks a rule above or the model's limits, nothing was
  // computed. kResourceExhausted: out of device memory, the step had no effect. Any other
  // error is fatal to the requests of the step.
  virtual absl::StatusOr<std::vector<StepResult>> Step(const StepInput& input) = 0;
};

}  // namespace quire

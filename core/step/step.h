#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "core/base/types.h"
#include "core/dga/attention_options.h"
#include "core/dga/attention_stats.h"
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

  AttentionOptions attention;
  bool last_chunk = false;  // of the prompt: the moment to compact
  bool importance = false;  // fill StepResult::importance
};

inline constexpr TokenId kNoTarget = -1;

struct TokenScore {
  TokenId token = 0;
  float logprob = 0;              // natural log, of the model's own distribution
  int32_t rank = 0;               // 1: the most probable token; 0: not asked for
  std::vector<TokenLogprob> top;  // most probable first
};

// How much the sampled queries of a step attended to each token: a part of
// s_i = (sum over queries of A[query, i]) / (queries that see i), dga.md section 1.
struct AttentionProbe {
  std::vector<Position> queries;  // positions of the sampled queries, ascending
  std::vector<float> attention;   // [begin + tokens]: sum over the queries, mean over
                                  // layers and heads
};

struct StepResult {
  RequestId id{};
  // Not OK: this item failed, whatever else stands here; the other items did not notice.
  absl::Status status;
  std::optional<TokenScore> sampled;  // set iff the item asked to sample
  std::vector<TokenScore> scores;  // one for each target that is not kNoTarget, in order
  AttentionStats attention;
  // The columns of `attention` by layer and key/value head, [layers, G]; empty if the
  // runner does not know.
  std::vector<int64_t> head_columns;
  AttentionProbe importance;  // if asked for
  // Compact mode, after the last chunk: indices into the item's blocks whose keys and
  // values the runner reads no more. The caller passes kNoBlock in their place.
  std::vector<int32_t> dropped_blocks;
};

// Keys, values, groups and index of every layer.
struct BlockCopy {
  BlockId from{};
  BlockId to{};
};

struct StepInput {
  std::vector<StepItem> items;      // of different sequences
  std::vector<BlockCopy> copies;    // done first, in order
  std::vector<RequestId> released;  // finished since the last step: drop their state
  // What the caller has to do while a device computes. A runner calls it at most once in
  // a step, on the thread that called Step, when the whole step has been handed to the
  // device and before it waits for it; not in a step that fails before. A runner that
  // computes on that thread itself never calls it. It neither throws nor calls the
  // runner, and until Step returns all that the items view stays as it is. Null: nothing
  // to do.
  std::function<void()> meanwhile;
};

// The one seam between scheduling (no Torch, no GPU) and computing (all of it).
class ModelRunner {
 public:
  virtual ~ModelRunner() = default;
  // Does ahead what a thread's first steps would take longer for, such as what libraries
  // prepare for each thread. To be called at most once, by the thread that will call
  // Step; not calling it changes nothing but times. Does not throw: what fails here
  // fails in a step.
  virtual void Prepare() {}
  // Results are in item order; one item's result does not depend on the others, beyond
  // the order of floating-point sums. Called by one thread at a time. An item that breaks
  // a rule above or the model's limits has a result with that status. An error of the
  // whole step: what its items had in the cache before is still there, so that each may
  // be tried again alone. kResourceExhausted: out of device memory. kDataLoss: the device
  // is lost with all that was in it, and no later step will succeed.
  virtual absl::StatusOr<std::vector<StepResult>> Step(const StepInput& input) = 0;
};

}  // namespace quire

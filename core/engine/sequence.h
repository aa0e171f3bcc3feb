#pragma once

#include <cstdint>
#include <optional>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/dga/attention_control.h"
#include "core/engine/request.h"
#include "core/step/step.h"

namespace quire {

// One request's way through the model, one class for each kind: what it wants computed
// next, and what it makes of the answer. Pure bookkeeping: a sequence knows nothing of
// threads, queues, time, cache blocks or other requests, so that the engine is free to
// plan several at once. Plan and Commit alternate until Commit gives a reason. Not
// thread-safe.
class GenerateSequence {
 public:
  explicit GenerateSequence(GenerateRequest request);

  // At most chunk_tokens of the prompt (all of it, if the attention asks for that), or
  // one token to decode. The item's spans view *this until Commit; its id and blocks are
  // the caller's to fill in.
  StepItem Plan(int32_t chunk_tokens);

  // Takes the planned item's result, tells the sink, and says why the request is done if
  // it is. kInternal: the result is not what was asked for; the sink was told nothing.
  absl::StatusOr<std::optional<FinishReason>> Commit(StepResult result,
                                                     RequestSink& sink);

  bool prompt_computed() const { return computed_ >= prompt_size_; }
  const Usage& usage() const { return usage_; }
  AttentionControl& attention() { return attention_; }

 private:
  bool Stops(TokenId token) const;

  std::vector<TokenId> tokens_;  // the prompt and all that was generated
  size_t prompt_size_;
  GenerateRequest request_;  // its prompt has moved to tokens_
  size_t computed_ = 0;      // tokens in the cache
  size_t planned_ = 0;       // tokens of the item under way
  Usage usage_;
  AttentionControl attention_;
};

// As above. The last token is not computed: nothing follows it.
class ScoreSequence {
 public:
  explicit ScoreSequence(ScoreRequest request);

  StepItem Plan(int32_t chunk_tokens);
  absl::StatusOr<std::optional<FinishReason>> Commit(StepResult result,
                                                     RequestSink& sink);

  bool prompt_computed() const { return computed_ >= request_.tokens.size() - 1; }
  const Usage& usage() const { return usage_; }
  AttentionControl& attention() { return attention_; }

 private:
  absl::Status CheckResult(const StepResult& result) const;
  void AddImportance(const AttentionProbe& probe);
  std::vector<float> Importance() const;

  ScoreRequest request_;
  std::vector<TokenId> targets_;  // of the item under way
  size_t wanted_scores_ = 0;      // of the item under way
  size_t computed_ = 0;
  size_t planned_ = 0;
  Usage usage_;
  AttentionControl attention_;
  std::vector<double> attended_;   // by the sampled queries so far, for each token
  std::vector<Position> queries_;  // sampled so far, ascending
};

using Sequence = std::variant<GenerateSequence, ScoreSequence>;

Sequence MakeSequence(std::variant<GenerateRequest, ScoreRequest> work);

}  // namespace quire

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
// threads, queues, time, cache blocks or other requests. Plan and Commit alternate until
// Commit gives a reason; StartAt comes before the first Plan and, after a preemption,
// between the two again. Not thread-safe.
class GenerateSequence {
 public:
  explicit GenerateSequence(GenerateRequest request);

  // Tokens that are, or are next to be, in the cache; prompt first.
  absl::Span<const TokenId> known() const { return tokens_; }
  int64_t prompt_tokens() const { return static_cast<int64_t>(prompt_size_); }
  int64_t computed_tokens() const { return static_cast<int64_t>(computed_); }
  // Leading tokens whose rows need not be computed if their keys and values are there.
  int64_t cacheable_tokens() const { return static_cast<int64_t>(tokens_.size()) - 1; }
  bool samples() const { return true; }

  // The first `tokens` are in the cache. What was computed before and is not there must
  // be computed again; the sink hears nothing twice.
  void StartAt(int64_t tokens);

  // The next `rows` known tokens, >= 1. The item's spans view *this until Commit; its id
  // and blocks are the caller's to fill in.
  StepItem Plan(int64_t rows);
  // The planned item was not computed.
  void Abandon() { planned_ = 0; }
  // Tokens of the planned item; 0: there is none.
  int64_t planned_tokens() const { return static_cast<int64_t>(planned_); }

  // Takes the planned item's result, tells the sink, and says why the request is done if
  // it is. kInternal: the result is not what was asked for; the sink was told nothing.
  absl::StatusOr<std::optional<FinishReason>> Commit(StepResult result,
                                                     RequestSink& sink);

  bool prompt_computed() const { return computed_ >= prompt_size_; }
  // Rows that were computed more than once.
  int64_t recomputed_tokens() const { return recomputed_; }
  const Usage& usage() const { return usage_; }
  AttentionControl& attention() { return attention_; }
  const AttentionOptions& options() const { return attention_.options(); }

 private:
  bool Stops(TokenId token) const;
  bool forced() const { return !request_.forced.empty(); }

  std::vector<TokenId> tokens_;  // the prompt and all that was generated
  size_t prompt_size_;
  GenerateRequest request_;       // its prompt has moved to tokens_
  size_t computed_ = 0;           // tokens in the cache
  size_t planned_ = 0;            // tokens of the item under way
  std::vector<TokenId> targets_;  // of the item under way, if the answer is forced
  size_t furthest_ = 0;           // the largest computed_ so far
  int64_t recomputed_ = 0;
  Usage usage_;
  AttentionControl attention_;
};

// As above. The last token is not computed: nothing follows it.
class ScoreSequence {
 public:
  explicit ScoreSequence(ScoreRequest request);

  absl::Span<const TokenId> known() const {
    return absl::MakeSpan(request_.tokens).first(request_.tokens.size() - 1);
  }
  int64_t prompt_tokens() const {
    return static_cast<int64_t>(request_.tokens.size()) - 1;
  }
  int64_t computed_tokens() const { return static_cast<int64_t>(computed_); }
  // Rows before `first` score nothing; importance wants all.
  int64_t cacheable_tokens() const;
  bool samples() const { return false; }

  void StartAt(int64_t tokens);
  StepItem Plan(int64_t rows);
  void Abandon() { planned_ = 0; }
  int64_t planned_tokens() const { return static_cast<int64_t>(planned_); }
  absl::StatusOr<std::optional<FinishReason>> Commit(StepResult result,
                                                     RequestSink& sink);

  bool prompt_computed() const { return computed_ >= request_.tokens.size() - 1; }
  int64_t recomputed_tokens() const { return recomputed_; }
  const Usage& usage() const { return usage_; }
  AttentionControl& attention() { return attention_; }
  const AttentionOptions& options() const { return attention_.options(); }

 private:
  absl::Status CheckResult(const StepResult& result) const;
  void AddImportance(const AttentionProbe& probe);
  std::vector<float> Importance() const;

  ScoreRequest request_;
  std::vector<TokenId> targets_;  // of the item under way
  size_t wanted_scores_ = 0;      // of the item under way
  size_t computed_ = 0;
  size_t planned_ = 0;
  size_t furthest_ = 0;  // the largest computed_ so far: what was scored
  int64_t recomputed_ = 0;
  Usage usage_;
  AttentionControl attention_;
  std::vector<double> attended_;   // by the sampled queries so far, for each token
  std::vector<Position> queries_;  // sampled so far, ascending
};

using Sequence = std::variant<GenerateSequence, ScoreSequence>;

Sequence MakeSequence(std::variant<GenerateRequest, ScoreRequest> work);

// What both kinds have.
absl::Span<const TokenId> KnownOf(const Sequence& sequence);
int64_t ComputedOf(const Sequence& sequence);
int64_t CacheableOf(const Sequence& sequence);
int64_t PlannedOf(const Sequence& sequence);
void StartAt(Sequence& sequence, int64_t tokens);
const Usage& UsageOf(const Sequence& sequence);
bool PromptComputed(const Sequence& sequence);
AttentionControl& AttentionOf(Sequence& sequence);

}  // namespace quire

#include "core/engine/sequence.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/check.h"

namespace quire {

GenerateSequence::GenerateSequence(GenerateRequest request)
    : tokens_(std::move(request.prompt)),
      prompt_size_(tokens_.size()),
      request_(std::move(request)) {}

StepItem GenerateSequence::Plan(int32_t chunk_tokens) {
  QUIRE_CHECK(planned_ == 0 && computed_ < tokens_.size());
  planned_ = std::min(static_cast<size_t>(chunk_tokens), tokens_.size() - computed_);
  const absl::Span<const TokenId> all(tokens_);
  StepItem item;
  item.begin = static_cast<Position>(computed_);
  item.tokens = all.subspan(computed_, planned_);
  item.sample = computed_ + planned_ == tokens_.size();
  item.sampling = request_.sampling;
  item.history = request_.sampling.penalize_prompt ? all : all.subspan(prompt_size_);
  item.sample_step = usage_.generated_tokens;
  item.top_logprobs = request_.top_logprobs;
  return item;
}

absl::StatusOr<std::optional<FinishReason>> GenerateSequence::Commit(StepResult result,
                                                                     RequestSink& sink) {
  const bool prompt_chunk = !prompt_computed();
  const bool sampled = computed_ + planned_ == tokens_.size();
  if (result.sampled.has_value() != sampled) {
    return absl::InternalError(sampled ? "the model runner sampled no token"
                                       : "the model runner sampled a token unasked");
  }
  computed_ += std::exchange(planned_, 0);
  if (prompt_chunk) {
    usage_.prompt_tokens = static_cast<int64_t>(computed_);
    sink.OnProgress(usage_.prompt_tokens, static_cast<int64_t>(prompt_size_));
  }
  if (!sampled) return std::nullopt;
  if (Stops(result.sampled->token)) return FinishReason::kStopToken;
  tokens_.push_back(result.sampled->token);
  ++usage_.generated_tokens;
  sink.OnToken(*result.sampled);
  if (usage_.generated_tokens == request_.max_new_tokens) return FinishReason::kLength;
  return std::nullopt;
}

bool GenerateSequence::Stops(TokenId token) const {
  return std::find(request_.stop_tokens.begin(), request_.stop_tokens.end(), token) !=
         request_.stop_tokens.end();
}

ScoreSequence::ScoreSequence(ScoreRequest request) : request_(std::move(request)) {}

StepItem ScoreSequence::Plan(int32_t chunk_tokens) {
  QUIRE_CHECK(planned_ == 0 && !prompt_computed());
  const absl::Span<const TokenId> all(request_.tokens);
  planned_ = std::min(static_cast<size_t>(chunk_tokens), all.size() - 1 - computed_);
  const size_t first = static_cast<size_t>(request_.first);
  targets_.assign(planned_, kNoTarget);
  wanted_scores_ = 0;
  for (size_t i = 0; i < planned_; ++i) {
    if (computed_ + i + 1 < first) continue;
    targets_[i] = all[computed_ + i + 1];
    ++wanted_scores_;
  }
  StepItem item;
  item.begin = static_cast<Position>(computed_);
  item.tokens = all.subspan(computed_, planned_);
  if (wanted_scores_ > 0) item.targets = targets_;
  item.ranks = request_.ranks;
  item.top_logprobs = request_.top_logprobs;
  return item;
}

absl::StatusOr<std::optional<FinishReason>> ScoreSequence::Commit(StepResult result,
                                                                  RequestSink& sink) {
  if (result.scores.size() != wanted_scores_) {
    return absl::InternalError(absl::StrCat("the model runner gave ",
                                            result.scores.size(), " scores; ",
                                            wanted_scores_, " were asked for"));
  }
  computed_ += std::exchange(planned_, 0);
  usage_.prompt_tokens = static_cast<int64_t>(computed_);
  sink.OnProgress(usage_.prompt_tokens, static_cast<int64_t>(request_.tokens.size()) - 1);
  if (wanted_scores_ > 0) sink.OnScores(std::move(result.scores));
  if (prompt_computed()) return FinishReason::kScored;
  return std::nullopt;
}

Sequence MakeSequence(std::variant<GenerateRequest, ScoreRequest> work) {
  if (auto* generate = std::get_if<GenerateRequest>(&work)) {
    return GenerateSequence(std::move(*generate));
  }
  return ScoreSequence(std::get<ScoreRequest>(std::move(work)));
}

}  // namespace quire

#include "core/engine/sequence.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/check.h"

namespace quire {
namespace {

// How many of the rows [from, from + rows) were computed before.
int64_t Recomputed(size_t from, size_t rows, size_t furthest) {
  return static_cast<int64_t>(std::min(from + rows, std::max(from, furthest)) - from);
}

}  // namespace

GenerateSequence::GenerateSequence(GenerateRequest request)
    : tokens_(std::move(request.prompt)),
      prompt_size_(tokens_.size()),
      request_(std::move(request)),
      attention_(request_.attention) {}

void GenerateSequence::StartAt(int64_t tokens) {
  QUIRE_CHECK(planned_ == 0 && tokens >= 0 && tokens <= cacheable_tokens());
  computed_ = static_cast<size_t>(tokens);
  if (furthest_ > 0) return;
  usage_.cached_tokens = tokens;
  usage_.prompt_tokens = tokens;
  furthest_ = computed_;
}

StepItem GenerateSequence::Plan(int64_t rows) {
  QUIRE_CHECK(planned_ == 0 && rows >= 1 &&
              rows <= static_cast<int64_t>(tokens_.size() - computed_));
  planned_ = static_cast<size_t>(rows);
  const absl::Span<const TokenId> all(tokens_);
  StepItem item;
  item.begin = static_cast<Position>(computed_);
  item.tokens = all.subspan(computed_, planned_);
  item.sample = computed_ + planned_ == tokens_.size();
  if (item.sample && forced()) {
    item.sample = false;
    targets_.assign(planned_, kNoTarget);
    targets_.back() = request_.forced[static_cast<size_t>(usage_.generated_tokens)];
    item.targets = targets_;
  }
  item.sampling = request_.sampling;
  item.history = request_.sampling.penalize_prompt ? all : all.subspan(prompt_size_);
  item.sample_step = usage_.generated_tokens;
  item.top_logprobs = request_.top_logprobs;
  item.attention = attention_.options();
  item.last_chunk = !prompt_computed() && computed_ + planned_ == prompt_size_;
  return item;
}

absl::StatusOr<std::optional<FinishReason>> GenerateSequence::Commit(StepResult result,
                                                                     RequestSink& sink) {
  const bool prompt_chunk = !prompt_computed();
  const bool sampled = computed_ + planned_ == tokens_.size();
  if (forced() && result.scores.size() == 1) {
    result.sampled = std::move(result.scores.front());
  }
  if (result.sampled.has_value() != sampled) {
    return absl::InternalError(sampled ? "the model runner sampled no token"
                                       : "the model runner sampled a token unasked");
  }
  attention_.Add(result.attention, prompt_chunk);
  recomputed_ += Recomputed(computed_, planned_, furthest_);
  computed_ += std::exchange(planned_, 0);
  furthest_ = std::max(furthest_, computed_);
  const auto prompt_done = static_cast<int64_t>(std::min(computed_, prompt_size_));
  if (prompt_done > usage_.prompt_tokens) {
    usage_.prompt_tokens = prompt_done;
    sink.OnProgress(usage_.prompt_tokens, static_cast<int64_t>(prompt_size_));
  }
  if (!sampled) return std::nullopt;
  if (!forced() && Stops(result.sampled->token)) return FinishReason::kStopToken;
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

ScoreSequence::ScoreSequence(ScoreRequest request)
    : request_(std::move(request)), attention_(request_.attention) {}

int64_t ScoreSequence::cacheable_tokens() const {
  if (request_.importance) return 0;
  const auto scored = std::max<int64_t>(request_.first - 1, furthest_);
  return std::min(scored, prompt_tokens() - 1);
}

void ScoreSequence::StartAt(int64_t tokens) {
  QUIRE_CHECK(planned_ == 0 && tokens >= 0 && tokens <= cacheable_tokens());
  computed_ = static_cast<size_t>(tokens);
  attended_.clear();
  queries_.clear();
  if (furthest_ > 0) return;
  usage_.cached_tokens = tokens;
  usage_.prompt_tokens = tokens;
  furthest_ = computed_;
}

StepItem ScoreSequence::Plan(int64_t rows) {
  const absl::Span<const TokenId> all(request_.tokens);
  QUIRE_CHECK(planned_ == 0 && rows >= 1 &&
              rows <= static_cast<int64_t>(all.size() - 1 - computed_));
  planned_ = static_cast<size_t>(rows);
  // What was scored before a preemption was told already.
  const size_t first = std::max(static_cast<size_t>(request_.first), furthest_ + 1);
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
  item.attention = attention_.options();
  item.last_chunk = computed_ + planned_ == all.size() - 1;
  item.importance = request_.importance;
  return item;
}

absl::Status ScoreSequence::CheckResult(const StepResult& result) const {
  if (result.scores.size() != wanted_scores_) {
    return absl::InternalError(absl::StrCat("the model runner gave ",
                                            result.scores.size(), " scores; ",
                                            wanted_scores_, " were asked for"));
  }
  const size_t seen = request_.importance ? computed_ + planned_ : 0;
  if (result.importance.attention.size() != seen) {
    return absl::InternalError(absl::StrCat("the model runner gave the attention to ",
                                            result.importance.attention.size(),
                                            " tokens; ", seen, " were asked for"));
  }
  return absl::OkStatus();
}

void ScoreSequence::AddImportance(const AttentionProbe& probe) {
  attended_.resize(probe.attention.size());
  for (size_t i = 0; i < attended_.size(); ++i) attended_[i] += probe.attention[i];
  queries_.insert(queries_.end(), probe.queries.begin(), probe.queries.end());
}

std::vector<float> ScoreSequence::Importance() const {
  std::vector<float> importance(attended_.size());
  size_t seen_by = 0;  // queries at i and beyond
  for (size_t i = importance.size(); i-- > 0;) {
    while (seen_by < queries_.size() &&
           queries_[queries_.size() - 1 - seen_by] >= static_cast<Position>(i)) {
      ++seen_by;
    }
    if (seen_by > 0) {
      importance[i] = static_cast<float>(attended_[i] / static_cast<double>(seen_by));
    }
  }
  return importance;
}

absl::StatusOr<std::optional<FinishReason>> ScoreSequence::Commit(StepResult result,
                                                                  RequestSink& sink) {
  if (absl::Status status = CheckResult(result); !status.ok()) return status;
  attention_.Add(result.attention, /*prompt=*/true);
  if (request_.importance) AddImportance(result.importance);
  const bool news = computed_ + planned_ > furthest_;
  recomputed_ += Recomputed(computed_, planned_, furthest_);
  computed_ += std::exchange(planned_, 0);
  furthest_ = std::max(furthest_, computed_);
  if (news) {
    usage_.prompt_tokens = static_cast<int64_t>(computed_);
    sink.OnProgress(usage_.prompt_tokens, prompt_tokens());
  }
  if (wanted_scores_ > 0) sink.OnScores(std::move(result.scores));
  if (!prompt_computed()) return std::nullopt;
  if (request_.importance) sink.OnImportance(Importance());
  return FinishReason::kScored;
}

Sequence MakeSequence(std::variant<GenerateRequest, ScoreRequest> work) {
  if (auto* generate = std::get_if<GenerateRequest>(&work)) {
    return GenerateSequence(std::move(*generate));
  }
  return ScoreSequence(std::get<ScoreRequest>(std::move(work)));
}

absl::Span<const TokenId> KnownOf(const Sequence& sequence) {
  return std::visit([](const auto& s) { return s.known(); }, sequence);
}

int64_t ComputedOf(const Sequence& sequence) {
  return std::visit([](const auto& s) { return s.computed_tokens(); }, sequence);
}

int64_t CacheableOf(const Sequence& sequence) {
  return std::visit([](const auto& s) { return s.cacheable_tokens(); }, sequence);
}

int64_t PlannedOf(const Sequence& sequence) {
  return std::visit([](const auto& s) { return s.planned_tokens(); }, sequence);
}

void StartAt(Sequence& sequence, int64_t tokens) {
  std::visit([&](auto& s) { s.StartAt(tokens); }, sequence);
}

const Usage& UsageOf(const Sequence& sequence) {
  return std::visit([](const auto& s) -> const Usage& { return s.usage(); }, sequence);
}

bool PromptComputed(const Sequence& sequence) {
  return std::visit([](const auto& s) { return s.prompt_computed(); }, sequence);
}

AttentionControl& AttentionOf(Sequence& sequence) {
  return std::visit([](auto& s) -> AttentionControl& { return s.attention(); }, sequence);
}

}  // namespace quire

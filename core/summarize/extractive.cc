#include <algorithm>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "absl/types/span.h"
#include "core/base/status_macros.h"
#include "core/engine/request_limits.h"
#include "core/scoring/text_scorer.h"
#include "core/summarize/pass_progress.h"
#include "core/summarize/sentence_selection.h"
#include "core/summarize/sentence_splitter.h"
#include "core/summarize/summary_job.h"

namespace quire {
namespace {

constexpr int32_t kDefaultTargetWords = 150;
// A longer sentence is cut; it would take all of a summary.
constexpr int64_t kMaxSentenceBytes = 1000;
// What a token that the model held (nearly) impossible counts, nats.
constexpr float kMaxNats = 30;

// Keeps what each token cost and how much it was looked at, and passes progress on.
class ReadingCollector final : public TextScoreObserver {
 public:
  ReadingCollector(const SummaryJob& job, const std::vector<ByteSpan>& token_spans,
                   int64_t window_tokens)
      : job_(job), window_tokens_(window_tokens), progress_(job.clock) {
    readings_.reserve(token_spans.size());
    for (const ByteSpan span : token_spans) readings_.push_back({.span = span});
  }

  SummaryProgress BeginWindow(int32_t window, int32_t windows, int64_t tokens) {
    window_ = window;
    const int32_t left = windows - window;
    return progress_.BeginPass(tokens, 0,
                               {.passes = left, .prefill_tokens = left * window_tokens_});
  }

  absl::Status OnProgress(const ScoreProgress& progress) override {
    if (progress.window != window_) {
      BeginWindow(progress.window, progress.windows, progress.total_tokens);
    }
    return job_.observer.OnProgress(progress_.OnPrefill(progress.done_tokens));
  }

  absl::Status OnScores(int64_t first_token,
                        absl::Span<const TokenScore> scores) override {
    for (size_t i = 0; i < scores.size(); ++i) {
      const float logprob = scores[i].logprob;
      if (std::isnan(logprob)) continue;  // the text's first token
      readings_[first_token + i].nats = std::min(-logprob, kMaxNats);
    }
    return absl::OkStatus();
  }

  absl::Status OnImportance(int64_t first_token,
                            absl::Span<const float> importance) override {
    for (size_t i = 0; i < importance.size(); ++i) {
      readings_[first_token + i].importance = importance[i];
    }
    return absl::OkStatus();
  }

  absl::Span<const TokenReading> readings() const { return readings_; }

 private:
  const SummaryJob& job_;
  const int64_t window_tokens_;
  PassProgress progress_;
  int32_t window_ = 0;
  std::vector<TokenReading> readings_;
};

// Each sentence with its span; between two sentences a space or, if a paragraph ended
// between them, a blank line, which come from nowhere.
absl::Status WriteSentences(const SummaryJob& job, absl::Span<const Sentence> sentences,
                            absl::Span<const int64_t> chosen) {
  int64_t next = 0;
  for (const int64_t index : chosen) {
    bool paragraph = false;
    for (; next <= index; ++next)
      paragraph = paragraph || sentences[next].begins_paragraph;
    if (index != chosen.front()) {
      QUIRE_RETURN_IF_ERROR(job.observer.OnText(paragraph ? "\n\n" : " ", {}));
    }
    const ByteSpan span = sentences[index].span;
    QUIRE_RETURN_IF_ERROR(
        job.observer.OnText(job.text.substr(span.begin, span.end - span.begin), {span}));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<SummaryResult> SummarizeExtractive(const SummaryJob& job) {
  // With the tokenizer's begin token, if it has one: the first word then has a
  // probability.
  QUIRE_ASSIGN_OR_RETURN(const Encoding encoding, job.model.tokenizer.EncodeWithSpans(
                                                      job.text, /*add_special=*/true,
                                                      /*parse_special=*/false));
  const int64_t tokens = static_cast<int64_t>(encoding.ids.size());
  const int32_t context = job.model.context_tokens();
  const TextScoreOptions score{.importance = true,
                               .attention = job.options.attention,
                               .deadline = job.options.deadline,
                               .scheduling = job.options.scheduling};
  QUIRE_RETURN_IF_ERROR(CheckFaithfulText(score.attention, tokens, context));
  const int32_t windows = CountScoreWindows(tokens, context, score.overlap_tokens);
  QUIRE_RETURN_IF_ERROR(job.observer.OnPlan({.strategy = SummaryStrategy::kExtractive,
                                             .document_tokens = tokens,
                                             .parts = {job.document()},
                                             .passes = windows,
                                             .levels = 0}));
  ReadingCollector collector(job, encoding.spans, context);
  QUIRE_RETURN_IF_ERROR(job.observer.OnProgress(
      collector.BeginWindow(1, windows, std::min<int64_t>(tokens, context))));
  QUIRE_ASSIGN_OR_RETURN(const TextScoreResult scored,
                         ScoreText(*job.model.engine, context, encoding.ids, score,
                                   job.cancellation, collector));
  const std::vector<Sentence> sentences = SplitSentences(job.text, kMaxSentenceBytes);
  const int32_t target_words =
      job.options.target_words > 0 ? job.options.target_words : kDefaultTargetWords;
  const std::vector<int64_t> chosen = SelectSentences(
      job.text, sentences, collector.readings(), job.options.question, target_words);
  QUIRE_RETURN_IF_ERROR(WriteSentences(job, sentences, chosen));
  return SummaryResult{.strategy = SummaryStrategy::kExtractive,
                       .finish_reason = FinishReason::kScored,
                       .usage = scored.usage,
                       .timings = scored.timings,
                       .attention = scored.attention,
                       .device = scored.device,
                       .head_columns = scored.head_columns};
}

}  // namespace quire

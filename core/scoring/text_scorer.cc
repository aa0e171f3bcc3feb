#include "core/scoring/text_scorer.h"

#include <algorithm>
#include <limits>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/check.h"
#include "core/base/status_macros.h"
#include "core/dga/probe_positions.h"
#include "core/engine/request_limits.h"
#include "core/engine/request_stream.h"

namespace quire {
namespace {

// Tokens [begin, end) are read, those from `first` on are scored. The importance of those
// from important_begin to important_end is reported.
struct Window {
  int64_t begin = 0;
  int64_t first = 0;
  int64_t end = 0;
  int64_t important_begin = 0;
  int64_t important_end = 0;
};

// Divides the mean attention paid to each token by the mean of what was to be expected,
// see TextScoreObserver::OnImportance.
void DivideByExpected(std::vector<float>& importance) {
  const size_t read = importance.size();
  std::vector<double> reciprocal(read), harmonic(read);  // of distance + 1; sums of these
  double sum = 0;
  for (size_t distance = 0; distance < read; ++distance) {
    reciprocal[distance] = 1.0 / static_cast<double>(distance + 1);
    harmonic[distance] = sum += reciprocal[distance];
  }
  std::vector<double> expected(read), seen_by(read);
  // The last token that was read is always sampled.
  for (const int64_t row : ProbedRows(0, static_cast<int64_t>(read), true)) {
    const auto query = static_cast<size_t>(row);
    for (size_t i = 0; i <= query; ++i) {
      expected[i] += reciprocal[query - i] / harmonic[query];
      ++seen_by[i];
    }
  }
  for (size_t i = 0; i < read; ++i) {
    importance[i] = static_cast<float>(importance[i] * seen_by[i] / expected[i]);
  }
}

int32_t Overlap(int32_t requested, int32_t context_tokens) {
  return requested > 0 ? requested : std::max(1, context_tokens / 4);
}

// Tokens that the windows after the first read.
int64_t LaterTokens(absl::Span<const ScoreWindows> windows) {
  int64_t tokens = 0;
  for (const ScoreWindows& alike : windows) tokens += alike.read_tokens * alike.count;
  return windows.empty() ? 0 : tokens - windows.front().read_tokens;
}

class Scorer {
 public:
  Scorer(Engine& engine, absl::Span<const TokenId> tokens,
         const TextScoreOptions& options, Cancellation* cancellation,
         TextScoreObserver& observer)
      : engine_(engine),
        tokens_(tokens),
        options_(options),
        cancellation_(cancellation),
        observer_(observer) {}

  absl::StatusOr<TextScoreResult> Run(int32_t context_tokens, int32_t overlap) {
    const auto size = static_cast<int64_t>(tokens_.size());
    QUIRE_RETURN_IF_ERROR(CheckAttention(options_.attention));
    QUIRE_RETURN_IF_ERROR(CheckFaithfulText(options_.attention, size, context_tokens));
    const int64_t stride = context_tokens - overlap;
    result_.windows = CountScoreWindows(size, context_tokens, overlap);
    result_.overlap_tokens = result_.windows > 1 ? overlap : 0;
    later_tokens_ = LaterTokens(PlanScoreWindows(size, context_tokens, overlap));
    QUIRE_RETURN_IF_ERROR(ReportFirstToken());
    if (size == 1) return ReportLoneImportance();
    for (int32_t index = 0; index < result_.windows; ++index) {
      Window window;
      window.begin = index * stride;
      window.end = std::min(size, window.begin + context_tokens);
      window.first = index == 0 ? 1 : window.begin + overlap;
      window.important_begin = index == 0 ? 0 : window.begin + overlap / 2;
      window.important_end =
          window.end == size ? size : window.begin + stride + overlap / 2;
      QUIRE_RETURN_IF_ERROR(RunWindow(window, index + 1));
    }
    return std::move(result_);
  }

 private:
  // No token stands before it, so it has no probability.
  absl::Status ReportFirstToken() {
    TokenScore first;
    first.token = tokens_[0];
    first.logprob = std::numeric_limits<float>::quiet_NaN();
    return observer_.OnScores(0, {&first, 1});
  }

  absl::StatusOr<TextScoreResult> ReportLoneImportance() {
    result_.attention.mode = options_.attention.mode;
    result_.attention.eps = options_.attention.eps;
    const float none = 0;
    if (options_.importance) {
      QUIRE_RETURN_IF_ERROR(observer_.OnImportance(0, {&none, 1}));
    }
    return std::move(result_);
  }

  absl::Status RunWindow(const Window& window, int32_t number) {
    // One window may be over before its stream can hear of a cancellation.
    if (cancellation_ != nullptr && cancellation_->cancelled()) {
      return absl::CancelledError("the scoring was cancelled");
    }
    const auto read = tokens_.subspan(window.begin, window.end - window.begin);
    EngineRequest request;
    request.work =
        ScoreRequest{.tokens = {read.begin(), read.end()},
                     .first = static_cast<int32_t>(window.first - window.begin),
                     .top_logprobs = options_.top_logprobs,
                     .ranks = options_.ranks,
                     .importance = options_.importance,
                     .attention = options_.attention};
    request.deadline = options_.deadline;
    request.scheduling = options_.scheduling;
    if (number == 1) {
      request.scheduling.later_prompt_tokens += later_tokens_;
    } else {
      request.scheduling.admitted = true;
    }
    QUIRE_ASSIGN_OR_RETURN(
        const std::unique_ptr<RequestStream> stream,
        RequestStream::Open(engine_, std::move(request), cancellation_));
    int64_t next = window.first;
    while (true) {
      const RequestEvent event = stream->Next();
      if (const auto* progress = std::get_if<PrefillProgress>(&event)) {
        QUIRE_RETURN_IF_ERROR(observer_.OnProgress(
            {progress->done_tokens, progress->total_tokens, number, result_.windows}));
      } else if (const auto* scores = std::get_if<std::vector<TokenScore>>(&event)) {
        QUIRE_RETURN_IF_ERROR(Report(next, *scores));
        next += static_cast<int64_t>(scores->size());
      } else if (const auto* importance = std::get_if<TokenImportance>(&event)) {
        QUIRE_RETURN_IF_ERROR(ReportImportance(window, importance->values));
      } else if (const auto* finished = std::get_if<Finished>(&event)) {
        result_.usage += finished->usage;
        result_.timings += finished->timings;
        result_.attention += finished->attention;
        result_.device += finished->device;
        AddHeadColumns(finished->head_columns, result_.head_columns);
        QUIRE_RETURN_IF_ERROR(finished->status);
        QUIRE_CHECK(next == window.end);
        return absl::OkStatus();
      }
    }
  }

  absl::Status Report(int64_t first, absl::Span<const TokenScore> scores) {
    for (const TokenScore& score : scores) result_.logprob += score.logprob;
    result_.scored_tokens += static_cast<int64_t>(scores.size());
    while (!scores.empty()) {
      const auto block = scores.subspan(0, kMaxScoreBlock);
      QUIRE_RETURN_IF_ERROR(observer_.OnScores(first, block));
      first += static_cast<int64_t>(block.size());
      scores.remove_prefix(block.size());
    }
    return absl::OkStatus();
  }

  absl::Status ReportImportance(const Window& window, std::vector<float> importance) {
    DivideByExpected(importance);
    importance.push_back(0);  // the window's last token, which was not read
    absl::Span<const float> left(importance);
    left = left.subspan(window.important_begin - window.begin,
                        window.important_end - window.important_begin);
    for (int64_t first = window.important_begin; !left.empty();) {
      const auto block = left.subspan(0, kMaxScoreBlock);
      QUIRE_RETURN_IF_ERROR(observer_.OnImportance(first, block));
      first += static_cast<int64_t>(block.size());
      left.remove_prefix(block.size());
    }
    return absl::OkStatus();
  }

  Engine& engine_;
  absl::Span<const TokenId> tokens_;
  const TextScoreOptions& options_;
  Cancellation* cancellation_;
  TextScoreObserver& observer_;
  int64_t later_tokens_ = 0;  // of the windows after the first
  TextScoreResult result_;
};

}  // namespace

int32_t CountScoreWindows(int64_t tokens, int32_t context_tokens,
                          int32_t overlap_tokens) {
  const int64_t stride = context_tokens - Overlap(overlap_tokens, context_tokens);
  const int64_t beyond = std::max<int64_t>(0, tokens - context_tokens);
  return static_cast<int32_t>(1 + (beyond + stride - 1) / stride);
}

std::vector<ScoreWindows> PlanScoreWindows(int64_t tokens, int32_t context_tokens,
                                           int32_t overlap_tokens) {
  const int64_t count = CountScoreWindows(tokens, context_tokens, overlap_tokens);
  const int64_t stride = context_tokens - Overlap(overlap_tokens, context_tokens);
  std::vector<ScoreWindows> windows;
  if (count > 1) windows.push_back({context_tokens - 1, count - 1});
  const int64_t last = tokens - (count - 1) * stride - 1;
  if (last > 0) windows.push_back({last, 1});
  return windows;
}

absl::StatusOr<TextScoreResult> ScoreText(Engine& engine, int32_t context_tokens,
                                          absl::Span<const TokenId> tokens,
                                          const TextScoreOptions& options,
                                          Cancellation* cancellation,
                                          TextScoreObserver& observer) {
  QUIRE_CHECK(context_tokens >= 2);
  if (tokens.empty()) {
    return absl::InvalidArgumentError("tokens is empty; scoring needs at least 1 token");
  }
  if (options.overlap_tokens < 0 || options.overlap_tokens >= context_tokens) {
    return absl::InvalidArgumentError(
        absl::StrCat("overlap_tokens is ", options.overlap_tokens, "; it must be in [1, ",
                     context_tokens, "), below the context, or 0 for a quarter of it"));
  }
  const int32_t overlap = Overlap(options.overlap_tokens, context_tokens);
  return Scorer(engine, tokens, options, cancellation, observer)
      .Run(context_tokens, overlap);
}

}  // namespace quire

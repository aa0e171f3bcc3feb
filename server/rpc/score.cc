#include <algorithm>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/scoring/text_scorer.h"
#include "core/summarize/sentence_splitter.h"
#include "server/rpc/admission.h"
#include "server/rpc/attention.h"
#include "server/rpc/convert.h"
#include "server/rpc/handlers.h"
#include "server/rpc/progress.h"
#include "server/rpc/span_sums.h"
#include "server/rpc/status.h"

namespace quire::server {
namespace {

constexpr int64_t kMaxSpans = 10'000;
// A longer sentence is cut.
constexpr int64_t kMaxSentenceBytes = 1000;
constexpr size_t kMaxSentenceBlock = 4096;

// A text ready to be scored.
struct TextToScore {
  std::vector<TokenId> tokens;       // with the begin tokens in front
  int64_t begin_tokens = 0;          // how many of them are not the text's
  std::vector<int64_t> first_bytes;  // of each of the text's tokens; empty for token ids
  std::vector<int64_t> last_bytes;   // the same
};

absl::StatusOr<TextToScore> FromText(const ServedModel& model, const std::string& text,
                                     const ServiceLimits& limits) {
  QUIRE_RETURN_IF_ERROR(CheckText("input.text", text, limits.max_text_bytes));
  QUIRE_ASSIGN_OR_RETURN(const Encoding encoding,
                         model.text.tokenizer.EncodeWithSpans(text, false, false));
  TextToScore result{.tokens = model.begin_tokens,
                     .begin_tokens = static_cast<int64_t>(model.begin_tokens.size())};
  result.tokens.insert(result.tokens.end(), encoding.ids.begin(), encoding.ids.end());
  result.first_bytes.reserve(encoding.spans.size());
  result.last_bytes.reserve(encoding.spans.size());
  for (const ByteSpan& span : encoding.spans) {
    result.first_bytes.push_back(span.begin);
    result.last_bytes.push_back(std::max(span.begin, span.end - 1));
  }
  return result;
}

absl::StatusOr<TextToScore> ReadInput(const ServedModel& model, const v1::Input& input,
                                      const ServiceLimits& limits) {
  switch (input.source_case()) {
    case v1::Input::kText:
      return FromText(model, input.text(), limits);
    case v1::Input::kTokenIds: {
      const auto& ids = input.token_ids().ids();
      QUIRE_RETURN_IF_ERROR(CheckTokenIds("input.token_ids.ids", ids, MaxTokenIds(limits),
                                          model.text.config.vocab_size));
      return TextToScore{.tokens = {ids.begin(), ids.end()}};
    }
    case v1::Input::kChat:
      return InvalidField("input.chat",
                          "input.chat is for Generate; it must be text or token_ids");
    case v1::Input::SOURCE_NOT_SET:
      break;
  }
  return InvalidField("input", "input is not set; it must hold text or token_ids");
}

absl::StatusOr<std::vector<ByteSpan>> ReadSpans(const v1::Input& input,
                                                const v1::ScoreOptions& options) {
  std::vector<ByteSpan> spans;
  if (options.spans().empty()) return spans;
  if (!input.has_text()) {
    return InvalidField(
        "options.spans",
        "options.spans is set; it must be empty when the input is not text");
  }
  if (options.spans_size() > kMaxSpans) {
    return InvalidField("options.spans",
                        absl::StrCat("options.spans has ", options.spans_size(),
                                     " entries; it must have at most ", kMaxSpans));
  }
  const auto size = static_cast<int64_t>(input.text().size());
  for (int i = 0; i < options.spans_size(); ++i) {
    const v1::ByteSpan& span = options.spans(i);
    if (span.begin() < 0 || span.end() < span.begin() || span.end() > size) {
      const std::string field = absl::StrCat("options.spans[", i, "]");
      return InvalidField(field,
                          absl::StrCat(field, " is [", span.begin(), ", ", span.end(),
                                       "); it must be inside [0, ", size, ")"));
    }
    spans.push_back({span.begin(), span.end()});
  }
  return spans;
}

// The sentences whose importance is wanted; none if it is not.
absl::StatusOr<std::vector<ByteSpan>> ReadSentences(const v1::Input& input,
                                                    const v1::ScoreOptions& options) {
  std::vector<ByteSpan> spans;
  if (!options.sentence_importance()) return spans;
  if (!input.has_text()) {
    return InvalidField(
        "options.sentence_importance",
        "options.sentence_importance is true; it must be false when the input is not "
        "text");
  }
  for (const Sentence& sentence : SplitSentences(input.text(), kMaxSentenceBytes)) {
    spans.push_back(sentence.span);
  }
  return spans;
}

absl::StatusOr<TextScoreOptions> ReadOptions(const ServedModel& model,
                                             const v1::ScoreOptions& options,
                                             const CallContext& call) {
  TextScoreOptions result{
      .top_logprobs = options.top_logprobs(),
      .ranks = options.ranks(),
      .importance = options.importance() || options.sentence_importance(),
      .deadline = call.deadline};
  QUIRE_ASSIGN_OR_RETURN(
      result.attention, MergeAttention(call.AttentionDefaults(model), options.attention(),
                                       "options.attention"));
  QUIRE_RETURN_IF_ERROR(
      CheckRange("options.top_logprobs", options.top_logprobs(), 0, kMaxTopLogprobs));
  if (options.has_overlap_tokens()) {
    QUIRE_RETURN_IF_ERROR(CheckRange("options.overlap_tokens", options.overlap_tokens(),
                                     1, model.text.context_tokens() - 1));
    result.overlap_tokens = options.overlap_tokens();
  }
  QUIRE_ASSIGN_OR_RETURN(result.scheduling,
                         SchedulingOf(call, "options.priority", options.priority()));
  return result;
}

// Before the text is tokenised.
absl::Status CheckRoom(const ServedModel& model, const v1::Input& input,
                       const TextScoreOptions& options, CallContext& call) {
  const std::vector<ScoreWindows> windows = PlanScoreWindows(
      LeastTokens(input), model.text.context_tokens(), options.overlap_tokens);
  return CheckAdmission(*model.text.engine, PassesOf(windows), options.attention,
                        options.scheduling, call);
}

// A text's scores, from the core's to the protocol's.
class Observer final : public TextScoreObserver {
 public:
  Observer(const TextToScore& text, const v1::ScoreOptions& options,
           std::vector<ByteSpan> spans, std::vector<ByteSpan> sentences,
           const EmitScore& emit, CallContext& call)
      : text_(text),
        options_(options),
        sums_(std::move(spans)),
        sentences_(std::move(sentences)),
        emit_(emit),
        call_(call),
        throttle_(*call.clock) {}

  absl::Status OnQueued() {
    return Emit(v1::PHASE_QUEUED,
                {.total_tokens = static_cast<int64_t>(text_.tokens.size())});
  }

  absl::Status OnProgress(const ScoreProgress& progress) override {
    call_.stage = CallStage::kPrefill;
    call_.OnProgress(TracePhase::kPrefill, progress.window, progress.done_tokens,
                     progress.total_tokens);
    return Emit(v1::PHASE_PREFILL, progress);
  }

  absl::Status OnScores(int64_t first_token,
                        absl::Span<const TokenScore> scores) override {
    const int64_t first = SkipBeginTokens(first_token, scores);
    if (scores.empty()) return absl::OkStatus();
    v1::ScoreResponse response;
    v1::TokenScores& block = *response.mutable_scores();
    block.set_first_token(first);
    for (size_t i = 0; i < scores.size(); ++i)
      Add(first + static_cast<int64_t>(i), scores[i], block);
    return emit_(std::move(response));
  }

  absl::Status OnImportance(int64_t first_token,
                            absl::Span<const float> importance) override {
    const int64_t first = SkipBeginTokens(first_token, importance);
    if (importance.empty()) return absl::OkStatus();
    if (options_.sentence_importance()) {
      // What every token attends to comes first, and says nothing of its sentence.
      const size_t begin = first == 0 && text_.begin_tokens == 0 ? 1 : 0;
      for (size_t i = begin; i < importance.size(); ++i) {
        sentences_.Add(text_.last_bytes[static_cast<size_t>(first) + i], importance[i]);
      }
    }
    if (!options_.importance()) return absl::OkStatus();
    v1::ScoreResponse response;
    v1::TokenImportance& block = *response.mutable_importance();
    block.set_first_token(first);
    block.mutable_importance()->Add(importance.begin(), importance.end());
    return emit_(std::move(response));
  }

  absl::Status OnResult(const TextScoreResult& result, const AttentionOptions& asked) {
    QUIRE_RETURN_IF_ERROR(EmitSentences());
    v1::ScoreResponse response;
    v1::ScoreFinal& final = *response.mutable_final();
    final.set_logprob(logprob_);
    final.set_scored_tokens(scored_);
    final.set_perplexity(std::exp(-logprob_ / static_cast<double>(scored_)));
    const std::vector<SpanSums::Sum> sums = sums_.Finish();
    for (size_t i = 0; i < sums.size(); ++i) {
      v1::SpanScore& span = *final.add_spans();
      *span.mutable_span() = ToProto(sums_.spans()[i]);
      span.set_logprob(sums[i].value);
      span.set_tokens(sums[i].tokens);
    }
    final.set_windows(result.windows);
    final.set_overlap_tokens(result.overlap_tokens);
    *final.mutable_usage() = ToProto(result.usage);
    *final.mutable_timings() = ToProto(result.timings, call_);
    final.set_model(call_.model);
    *final.mutable_receipt() = ToProto(result.attention, asked, result.device,
                                       call_.terms.price_per_device_hour);
    return emit_(std::move(response));
  }

 private:
  // The begin tokens are context; they are not reported. Returns the index in the text of
  // what is left.
  template <typename T>
  int64_t SkipBeginTokens(int64_t first_token, absl::Span<T>& values) const {
    const int64_t skip =
        std::min<int64_t>(std::max<int64_t>(0, text_.begin_tokens - first_token),
                          static_cast<int64_t>(values.size()));
    values.remove_prefix(static_cast<size_t>(skip));
    return first_token + skip - text_.begin_tokens;
  }

  absl::Status EmitSentences() {
    const std::vector<SpanSums::Sum> sums = sentences_.Finish();
    for (size_t begin = 0; begin < sums.size(); begin += kMaxSentenceBlock) {
      v1::ScoreResponse response;
      v1::SentenceImportances& block = *response.mutable_sentences();
      const size_t end = std::min(begin + kMaxSentenceBlock, sums.size());
      for (size_t i = begin; i < end; ++i) {
        v1::SentenceImportance& sentence = *block.add_sentences();
        *sentence.mutable_span() = ToProto(sentences_.spans()[i]);
        if (sums[i].tokens == 0) continue;
        sentence.set_importance(
            static_cast<float>(sums[i].value / static_cast<double>(sums[i].tokens)));
      }
      QUIRE_RETURN_IF_ERROR(emit_(std::move(response)));
    }
    return absl::OkStatus();
  }

  absl::Status Emit(v1::Phase phase, const ScoreProgress& progress) {
    const bool last = progress.done_tokens >= progress.total_tokens;
    if (!throttle_.ShouldSend(phase, progress.window, last)) return absl::OkStatus();
    v1::ScoreResponse response;
    v1::Progress& out = *response.mutable_progress();
    out.set_phase(phase);
    out.set_done_tokens(progress.done_tokens);
    out.set_total_tokens(progress.total_tokens);
    out.set_pass(progress.window);
    out.set_passes(progress.windows);
    // Windows are alike but for the last.
    const int64_t done =
        (progress.window - 1) * progress.total_tokens + progress.done_tokens;
    const int64_t total = progress.windows * progress.total_tokens;
    if (phase != v1::PHASE_QUEUED) {
      if (const auto eta = throttle_.EtaSeconds(done, total)) out.set_eta_seconds(*eta);
    }
    return emit_(std::move(response));
  }

  void Add(int64_t index, const TokenScore& score, v1::TokenScores& block) {
    block.add_token_ids(score.token);
    block.add_logprobs(score.logprob);
    if (options_.ranks()) block.add_ranks(score.rank);
    for (const TokenLogprob& top : score.top) *block.add_top() = ToProto(top);
    const bool has_bytes = !text_.first_bytes.empty();
    const int64_t byte = has_bytes ? text_.first_bytes[static_cast<size_t>(index)] : 0;
    if (has_bytes) block.add_byte_offsets(byte);
    if (std::isnan(score.logprob)) return;
    logprob_ += score.logprob;
    ++scored_;
    if (has_bytes) sums_.Add(byte, score.logprob);
  }

  const TextToScore& text_;
  const v1::ScoreOptions& options_;
  SpanSums sums_;       // of logprobs
  SpanSums sentences_;  // of importance
  const EmitScore& emit_;
  CallContext& call_;
  ProgressThrottle throttle_;
  double logprob_ = 0;
  int64_t scored_ = 0;
};

}  // namespace

absl::Status ScoreInput(const v1::Input& input, const v1::ScoreOptions& options,
                        const EmitScore& emit, CallContext& call) {
  QUIRE_ASSIGN_OR_RETURN(const ServedModel* model, FindModel(call, options.model()));
  QUIRE_ASSIGN_OR_RETURN(const TextScoreOptions score_options,
                         ReadOptions(*model, options, call));
  QUIRE_ASSIGN_OR_RETURN(std::vector<ByteSpan> spans, ReadSpans(input, options));
  QUIRE_RETURN_IF_ERROR(CheckRoom(*model, input, score_options, call));
  QUIRE_ASSIGN_OR_RETURN(const TextToScore text, ReadInput(*model, input, call.limits));
  QUIRE_RETURN_IF_ERROR(
      CheckTextSuits(score_options.attention, static_cast<int64_t>(text.tokens.size()),
                     model->text.context_tokens(), "options.attention"));
  QUIRE_ASSIGN_OR_RETURN(std::vector<ByteSpan> sentences, ReadSentences(input, options));
  Observer observer(text, options, std::move(spans), std::move(sentences), emit, call);
  QUIRE_RETURN_IF_ERROR(observer.OnQueued());
  const absl::StatusOr<TextScoreResult> result =
      quire::ScoreText(*model->text.engine, model->text.context_tokens(), text.tokens,
                       score_options, call.cancellation, observer);
  QUIRE_RETURN_IF_ERROR(
      ToldAsRefusal(WithFieldOfMessage(result.status()), *model->text.engine, call));
  call.usage += result->usage;
  call.timings += result->timings;
  call.attention += result->attention;
  call.device += result->device;
  AddHeadColumns(result->head_columns, call.head_columns);
  return observer.OnResult(*result, score_options.attention);
}

absl::Status HandleScore(const v1::ScoreRequest& request,
                         EventWriter<v1::ScoreResponse>& events, CallContext& call) {
  return ScoreInput(
      request.input(), request.options(),
      [&](const v1::ScoreResponse& response) { return events.Write(response); }, call);
}

}  // namespace quire::server

#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/engine/request_limits.h"
#include "core/engine/request_stream.h"
#include "core/summarize/document_plan.h"
#include "core/summarize/pass_progress.h"
#include "core/summarize/summary_job.h"
#include "core/summarize/summary_lengths.h"
#include "core/summarize/utf8.h"
#include "core/tokenizer/stream_decoder.h"

namespace quire {
namespace {

// Between the parts' summaries.
constexpr char kSeparator[] = "\n\n";
// A progress event for the first and then each so many generated tokens.
constexpr int64_t kTokensPerReport = 16;

// A text and its tokens, without the white space around it.
struct EncodedText {
  std::string_view text;
  int64_t offset = 0;  // of `text` in the text it was made from
  Encoding encoding;
};

absl::StatusOr<EncodedText> EncodeTrimmed(const Tokenizer& tokenizer,
                                          std::string_view text) {
  EncodedText encoded;
  encoded.offset = SkipWhiteSpace(text, 0);
  int64_t end = static_cast<int64_t>(text.size());
  while (end > encoded.offset && IsWhiteSpace(CodePointBefore(text, end).value)) {
    end -= CodePointBefore(text, end).length;
  }
  encoded.text = text.substr(encoded.offset, end - encoded.offset);
  QUIRE_ASSIGN_OR_RETURN(encoded.encoding,
                         tokenizer.EncodeWithSpans(encoded.text, /*add_special=*/false,
                                                   /*parse_special=*/false));
  return encoded;
}

// A part's tokens without those of white space at its ends, as if it were tokenised
// alone.
absl::Span<const TokenId> PartTokens(const Tokenizer& tokenizer, const EncodedText& text,
                                     const DocumentPart& part) {
  absl::Span<const TokenId> ids = text.encoding.ids;
  ids = ids.subspan(part.token_begin, part.token_end - part.token_begin);
  const auto blank = [&](TokenId id) {
    const std::string_view bytes = tokenizer.TokenBytes(id);
    return SkipWhiteSpace(bytes, 0) == static_cast<int64_t>(bytes.size());
  };
  while (ids.size() > 1 && blank(ids.front())) ids.remove_prefix(1);
  while (ids.size() > 1 && blank(ids.back())) ids.remove_suffix(1);
  return ids;
}

// The bytes of the whole text that each part covers.
std::vector<ByteSpan> PartSpans(const std::vector<DocumentPart>& parts,
                                const EncodedText& text, ByteSpan document) {
  std::vector<ByteSpan> spans;
  for (const DocumentPart& part : parts) {
    spans.push_back({part.bytes.begin + text.offset, part.bytes.end + text.offset});
  }
  spans.front().begin = document.begin;
  spans.back().end = document.end;
  return spans;
}

// Takes an answer's text as it comes and hands it on without white space at its start.
class AnswerWriter {
 public:
  AnswerWriter(const Tokenizer& tokenizer, std::string* answer)
      : decoder_(tokenizer), answer_(answer) {}
  AnswerWriter(const Tokenizer& tokenizer, SummaryObserver& observer, ByteSpan document)
      : decoder_(tokenizer), observer_(&observer), sources_({document}) {}

  void Push(TokenId token) { Add(decoder_.Push(token)); }
  // Tells what was added since the last time.
  absl::Status Flush() {
    if (answer_ != nullptr) answer_->append(unsaid_);
    const std::string text = std::exchange(unsaid_, {});
    if (answer_ != nullptr || text.empty()) return absl::OkStatus();
    return observer_->OnText(text, std::exchange(sources_, {}));
  }
  absl::Status Finish() {
    Add(decoder_.Finish());
    return Flush();
  }

 private:
  void Add(std::string_view text) {
    if (!started_) text.remove_prefix(SkipWhiteSpace(text, 0));
    started_ = started_ || !text.empty();
    unsaid_.append(text);
  }

  StreamDecoder decoder_;
  std::string unsaid_;
  std::string* answer_ = nullptr;
  SummaryObserver* observer_ = nullptr;
  std::vector<ByteSpan> sources_;  // told with the first piece only
  bool started_ = false;
};

class AbstractiveRun {
 public:
  explicit AbstractiveRun(const SummaryJob& job)
      : job_(job), prompts_(*job.model.prompts), progress_(job.clock) {}

  absl::StatusOr<SummaryResult> Run() {
    result_.strategy = SummaryStrategy::kAbstractive;
    QUIRE_ASSIGN_OR_RETURN(EncodedText document,
                           EncodeTrimmed(job_.model.tokenizer, job_.text));
    // Each pass is a prompt of its own, which is read as a whole if that is asked for.
    QUIRE_RETURN_IF_ERROR(
        CheckFaithfulText(job_.options.attention, Size(document), Size(document)));
    QUIRE_ASSIGN_OR_RETURN(lengths_, PlanLengths(job_.model, job_.options));
    QUIRE_RETURN_IF_ERROR(Announce(document));
    std::string joined;
    while (Size(document) > lengths_.document_tokens) {
      QUIRE_ASSIGN_OR_RETURN(joined, SummarizeParts(document));
      ++level_;
      if (joined.empty()) return std::move(result_);
      const int64_t before = Size(document);
      QUIRE_ASSIGN_OR_RETURN(document, EncodeTrimmed(job_.model.tokenizer, joined));
      if (Size(document) >= before) {
        return absl::InternalError("the parts' summaries are not shorter than the parts");
      }
    }
    QUIRE_RETURN_IF_ERROR(WriteSummary(document));
    return std::move(result_);
  }

 private:
  static int64_t Size(const EncodedText& text) {
    return static_cast<int64_t>(text.encoding.ids.size());
  }

  std::string Instruction(int32_t words, bool combine) const {
    return prompts_.Instruction(job_.options.question, words, combine);
  }

  absl::Status Announce(const EncodedText& document) {
    const std::vector<DocumentPart> parts =
        PlanParts(document.text, document.encoding.spans, lengths_.document_tokens);
    const PassEstimate estimate =
        EstimatePasses(static_cast<int64_t>(parts.size()), lengths_);
    return job_.observer.OnPlan({.strategy = SummaryStrategy::kAbstractive,
                                 .document_tokens = Size(document),
                                 .parts = PartSpans(parts, document, job_.document()),
                                 .passes = estimate.passes,
                                 .levels = estimate.levels});
  }

  // The summaries of a text's parts, one after the other.
  absl::StatusOr<std::string> SummarizeParts(const EncodedText& text) {
    const std::vector<DocumentPart> parts =
        PlanParts(text.text, text.encoding.spans, lengths_.document_tokens);
    const int64_t count = static_cast<int64_t>(parts.size());
    const int32_t words = PartWords(job_.options.target_words, count);
    const std::string instruction = Instruction(words, /*combine=*/level_ > 0);
    const int32_t max_new_tokens =
        words == 0 || job_.options.max_new_tokens.has_value()
            ? lengths_.part_new_tokens
            : std::min(lengths_.part_new_tokens, TokensForWords(words));
    const PassEstimate later = EstimatePasses(count, lengths_);
    std::string joined;
    for (int64_t i = 0; i < count; ++i) {
      const int64_t left = later.passes - i - 1;
      const WorkAhead ahead{
          .passes = static_cast<int32_t>(left),
          .prefill_tokens =
              Size(text) - parts[i].token_end + count * lengths_.part_new_tokens,
          .decode_tokens = (left - 1) * lengths_.part_new_tokens + lengths_.new_tokens};
      std::string answer;
      AnswerWriter writer(job_.model.tokenizer, &answer);
      QUIRE_RETURN_IF_ERROR(RunPass(PartTokens(job_.model.tokenizer, text, parts[i]),
                                    instruction, max_new_tokens, ahead, writer));
      absl::StripTrailingAsciiWhitespace(&answer);
      if (answer.empty()) continue;
      if (!joined.empty()) joined += kSeparator;
      joined += answer;
    }
    return joined;
  }

  absl::Status WriteSummary(const EncodedText& text) {
    AnswerWriter writer(job_.model.tokenizer, job_.observer, job_.document());
    return RunPass(text.encoding.ids,
                   Instruction(job_.options.target_words, /*combine=*/level_ > 0),
                   lengths_.new_tokens, {}, writer);
  }

  absl::Status RunPass(absl::Span<const TokenId> document, const std::string& instruction,
                       int32_t max_new_tokens, const WorkAhead& ahead,
                       AnswerWriter& writer) {
    // One pass may be over before its stream can hear of a cancellation: look between
    // passes.
    if (job_.cancellation != nullptr && job_.cancellation->cancelled()) {
      return absl::CancelledError("the summary was cancelled");
    }
    GenerateRequest generate;
    QUIRE_ASSIGN_OR_RETURN(generate.prompt,
                           prompts_.Build(job_.model.tokenizer, document, instruction));
    generate.max_new_tokens = max_new_tokens;
    generate.attention = job_.options.attention;
    generate.stop_tokens = job_.model.stop_tokens;
    generate.sampling = job_.options.sampling.value_or(prompts_.sampling());
    QUIRE_RETURN_IF_ERROR(job_.observer.OnProgress(progress_.BeginPass(
        static_cast<int64_t>(generate.prompt.size()), max_new_tokens, ahead)));
    EngineRequest request{std::move(generate), job_.options.deadline,
                          SchedulingOf(ahead)};
    QUIRE_ASSIGN_OR_RETURN(
        const std::unique_ptr<RequestStream> stream,
        RequestStream::Open(*job_.model.engine, std::move(request), job_.cancellation));
    return ReadAnswer(*stream, writer);
  }

  // Of the next pass. What is ahead counts once, with the first.
  Scheduling SchedulingOf(const WorkAhead& ahead) {
    Scheduling scheduling = job_.options.scheduling;
    scheduling.admitted = scheduling.admitted || std::exchange(first_pass_over_, true);
    if (!scheduling.admitted) {
      scheduling.later_prompt_tokens += ahead.prefill_tokens;
      scheduling.later_new_tokens += ahead.decode_tokens;
    }
    return scheduling;
  }

  absl::Status ReadAnswer(RequestStream& stream, AnswerWriter& writer) {
    const auto interval_now = [this] {
      const auto& interval = job_.options.text_interval;
      return interval ? interval() : absl::ZeroDuration();
    };
    absl::Time told = absl::InfinitePast();
    while (true) {
      const absl::Duration interval = interval_now();
      const absl::Duration since = job_.clock.Now() - told;
      for (const RequestEvent& event : stream.NextAll(interval - since)) {
        if (const auto* finished = std::get_if<Finished>(&event)) {
          return FinishPass(*finished, writer);
        }
        QUIRE_RETURN_IF_ERROR(OnEvent(event, writer));
        if (!std::holds_alternative<TokenScore>(event)) continue;
        told = job_.clock.Now();
        if (interval == absl::ZeroDuration()) QUIRE_RETURN_IF_ERROR(writer.Flush());
      }
      QUIRE_RETURN_IF_ERROR(writer.Flush());
    }
  }

  absl::Status OnEvent(const RequestEvent& event, AnswerWriter& writer) {
    if (const auto* prefill = std::get_if<PrefillProgress>(&event)) {
      return job_.observer.OnProgress(progress_.OnPrefill(prefill->done_tokens));
    }
    const SummaryProgress progress = progress_.OnToken();
    if (progress.done_tokens % kTokensPerReport == 1) {
      QUIRE_RETURN_IF_ERROR(job_.observer.OnProgress(progress));
    }
    writer.Push(std::get<TokenScore>(event).token);
    return absl::OkStatus();
  }

  absl::Status FinishPass(const Finished& finished, AnswerWriter& writer) {
    result_.usage += finished.usage;
    result_.timings += finished.timings;
    result_.attention += finished.attention;
    result_.device += finished.device;
    AddHeadColumns(finished.head_columns, result_.head_columns);
    QUIRE_RETURN_IF_ERROR(finished.status);
    result_.finish_reason = finished.reason;
    return writer.Finish();
  }

  const SummaryJob& job_;
  const PromptSet& prompts_;
  PassProgress progress_;
  PassLengths lengths_;
  int32_t level_ = 0;  // how often the text was replaced by its parts' summaries
  bool first_pass_over_ = false;
  SummaryResult result_;
};

}  // namespace

absl::StatusOr<PassLengths> PlanLengths(const TextModel& model,
                                        const SummaryOptions& options) {
  const PromptSet& prompts = *model.prompts;
  int64_t prompt_tokens = 0;
  for (const bool combine : {false, true}) {
    const std::string instruction =
        prompts.Instruction(options.question, options.target_words, combine);
    QUIRE_ASSIGN_OR_RETURN(const std::vector<TokenId> prompt,
                           prompts.Build(model.tokenizer, {}, instruction));
    prompt_tokens = std::max(prompt_tokens, static_cast<int64_t>(prompt.size()));
  }
  return PlanPassLengths({.context_tokens = model.context_tokens(),
                          .prompt_tokens = prompt_tokens,
                          .prompt_set_limit = prompts.max_new_tokens(),
                          .requested_limit = options.max_new_tokens,
                          .target_words = options.target_words});
}

absl::StatusOr<SummaryResult> SummarizeAbstractive(const SummaryJob& job) {
  return AbstractiveRun(job).Run();
}

}  // namespace quire

#include "core/summarize/summarizer.h"

#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/engine/request_limits.h"
#include "core/summarize/summary_job.h"
#include "core/summarize/utf8.h"

namespace quire {
namespace {

constexpr size_t kMaxQuestionBytes = 2000;
constexpr int32_t kMinTargetWords = 10;
constexpr int32_t kMaxTargetWords = 2000;

absl::Status CheckText(std::string_view text) {
  if (text.empty()) return absl::InvalidArgumentError("input.text is empty");
  if (const int64_t bad = FirstInvalidUtf8(text); bad >= 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("input.text is not UTF-8: the byte at offset ", bad, " is invalid"));
  }
  if (SkipWhiteSpace(text, 0) == static_cast<int64_t>(text.size())) {
    return absl::InvalidArgumentError("input.text holds nothing but white space");
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status SummaryOptions::Validate() const {
  if (question.size() > kMaxQuestionBytes) {
    return absl::InvalidArgumentError(absl::StrCat("question has ", question.size(),
                                                   " bytes; at most ", kMaxQuestionBytes,
                                                   " are allowed"));
  }
  if (const int64_t bad = FirstInvalidUtf8(question); bad >= 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("question is not UTF-8: the byte at offset ", bad, " is invalid"));
  }
  if (target_words != 0 &&
      (target_words < kMinTargetWords || target_words > kMaxTargetWords)) {
    return absl::InvalidArgumentError(
        absl::StrCat("target_words is ", target_words, "; it must be 0 or in [",
                     kMinTargetWords, ", ", kMaxTargetWords, "]"));
  }
  if (max_new_tokens.has_value() && *max_new_tokens < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("max_new_tokens is ", *max_new_tokens, "; it must be at least 1"));
  }
  QUIRE_RETURN_IF_ERROR(CheckAttention(attention));
  return sampling.has_value() ? sampling->Validate() : absl::OkStatus();
}

absl::StatusOr<SummaryStrategy> ChooseStrategy(const TextModel& model,
                                               SummaryStrategy strategy) {
  if (strategy == SummaryStrategy::kExtractive) return strategy;
  if (model.instruction_tuned()) return SummaryStrategy::kAbstractive;
  if (strategy == SummaryStrategy::kAuto) return SummaryStrategy::kExtractive;
  return absl::FailedPreconditionError(
      absl::StrCat("strategy is ABSTRACTIVE, but model ", model.name,
                   " has neither prompts nor a chat template; EXTRACTIVE works"));
}

absl::StatusOr<SummaryResult> Summarize(const TextModel& model, std::string_view text,
                                        const SummaryOptions& options, const Clock& clock,
                                        Cancellation* cancellation,
                                        SummaryObserver& observer) {
  QUIRE_RETURN_IF_ERROR(options.Validate());
  QUIRE_RETURN_IF_ERROR(CheckText(text));
  const SummaryJob job{model, text, options, clock, cancellation, observer};
  QUIRE_ASSIGN_OR_RETURN(const SummaryStrategy strategy,
                         ChooseStrategy(model, options.strategy));
  return strategy == SummaryStrategy::kExtractive ? SummarizeExtractive(job)
                                                  : SummarizeAbstractive(job);
}

}  // namespace quire

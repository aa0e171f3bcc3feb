#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "core/base/cancellation.h"
#include "core/base/clock.h"
#include "core/base/types.h"
#include "core/dga/attention_options.h"
#include "core/dga/attention_stats.h"
#include "core/engine/request.h"
#include "core/text_model/text_model.h"

namespace quire {

enum class SummaryStrategy : uint8_t { kAuto, kExtractive, kAbstractive };

struct SummaryOptions {
  SummaryStrategy strategy = SummaryStrategy::kAuto;
  std::string question;      // at most 2,000 bytes; empty: summarise everything
  int32_t target_words = 0;  // 0, or 10 .. 2,000
  std::optional<SamplingParams> sampling;  // unset: the prompt set's
  std::optional<int32_t> max_new_tokens;   // of one pass; unset: the prompt set's
  AttentionOptions attention;              // of every pass
  absl::Time deadline = absl::InfiniteFuture();
  Scheduling scheduling;  // the first pass's; those after it are admitted already
  // Asked before each piece of text: tokens that come sooner after the last piece than
  // this are told in one. Null: a piece a token.
  std::function<absl::Duration()> text_interval;
  absl::Status Validate() const;  // kInvalidArgument names the field
};

struct SummaryPlan {
  SummaryStrategy strategy = SummaryStrategy::kAbstractive;  // never kAuto
  int64_t document_tokens = 0;
  std::vector<ByteSpan> parts;  // one: the document fits the window
  int32_t passes = 1;           // over the model, as far as is known
  int32_t levels = 0;           // of combining
};

enum class SummaryPhase : uint8_t { kQueued, kPrefill, kDecode };

struct SummaryProgress {
  SummaryPhase phase = SummaryPhase::kPrefill;
  int64_t done_tokens = 0;  // of this pass
  int64_t total_tokens = 0;
  int32_t pass = 1;
  int32_t passes = 1;
  std::optional<absl::Duration> eta;  // until the end of the phase, all passes together
};

struct SummaryResult {
  SummaryStrategy strategy = SummaryStrategy::kAbstractive;
  FinishReason finish_reason = FinishReason::kStopToken;  // of the last pass
  Usage usage;                                            // of all passes
  Timings timings;
  AttentionReceipt attention;  // of all passes
  DeviceTime device;
  std::vector<int64_t> head_columns;  // see Finished
};

// Told of a summary as it is made, on the calling thread. An error stops it and is
// returned.
class SummaryObserver {
 public:
  virtual ~SummaryObserver() = default;
  virtual absl::Status OnPlan(const SummaryPlan& plan) = 0;
  virtual absl::Status OnProgress(const SummaryProgress& progress) = 0;
  // Text to be appended; never ends inside a UTF-8 character. sources: where it comes
  // from.
  virtual absl::Status OnText(std::string_view text,
                              const std::vector<ByteSpan>& sources) = 0;
};

// Summarises `text` (UTF-8, not only white space) and blocks the calling thread until
// done. Abstractive: one pass if document, prompt and answer fit the context; else the
// document is cut along paragraphs into parts of about the same size, each part is
// summarised (in a share of the words), and the summaries together are summarised, in
// parts again if they must be. Only the last pass's text is reported. An unset
// max_new_tokens follows from target_words (2 tokens a word), else is the prompt set's.
// Extractive: the sentences that the model's own scores favour, in the document's order,
// in at most target_words (unset: 150) words; see sentence_selection.h. kInvalidArgument
// names the field; kFailedPrecondition: abstractive with a model that has no prompts; the
// engine's and the observer's errors.
absl::StatusOr<SummaryResult> Summarize(const TextModel& model, std::string_view text,
                                        const SummaryOptions& options, const Clock& clock,
                                        Cancellation* cancellation,
                                        SummaryObserver& observer);

}  // namespace quire

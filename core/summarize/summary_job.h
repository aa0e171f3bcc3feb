#pragma once

#include <string_view>

#include "absl/status/statusor.h"
#include "core/base/cancellation.h"
#include "core/base/clock.h"
#include "core/summarize/summarizer.h"
#include "core/summarize/summary_lengths.h"
#include "core/text_model/text_model.h"

namespace quire {

// The arguments of Summarize, checked. Internal to core/summarize.
struct SummaryJob {
  const TextModel& model;
  std::string_view text;
  const SummaryOptions& options;
  const Clock& clock;
  Cancellation* cancellation;
  SummaryObserver& observer;

  ByteSpan document() const { return {0, static_cast<int64_t>(text.size())}; }
};

// Summarize with one strategy. REQUIRES: options valid; text UTF-8 and not only white
// space. Abstractive: the model has prompts.
absl::StatusOr<SummaryResult> SummarizeAbstractive(const SummaryJob& job);
absl::StatusOr<SummaryResult> SummarizeExtractive(const SummaryJob& job);

// AUTO is extractive if the model has no prompts; never returns kAuto.
// kFailedPrecondition: abstractive, and the model has none.
absl::StatusOr<SummaryStrategy> ChooseStrategy(const TextModel& model,
                                               SummaryStrategy strategy);

// Of an abstractive summary. REQUIRES: the model has prompts. Errors: PlanPassLengths'.
absl::StatusOr<PassLengths> PlanLengths(const TextModel& model,
                                        const SummaryOptions& options);

}  // namespace quire

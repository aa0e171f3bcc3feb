#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "core/summarize/summarizer.h"

namespace quire {

// Passes over the model that are alike.
struct SummaryPasses {
  int64_t prompt_tokens = 0;
  int32_t new_tokens = 0;  // at most; 0: extractive
  int64_t count = 1;
  friend bool operator==(const SummaryPasses&, const SummaryPasses&) = default;
};

// The passes that Summarize makes of a document of so many tokens, in order, if every
// answer is as long as it may be. The last entry's text is what the caller hears. Errors
// as Summarize's. REQUIRES: document_tokens >= 1, options valid.
absl::StatusOr<std::vector<SummaryPasses>> EstimateSummary(const TextModel& model,
                                                           int64_t document_tokens,
                                                           const SummaryOptions& options);

}  // namespace quire

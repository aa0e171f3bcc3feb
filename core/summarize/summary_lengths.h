#pragma once

#include <cstdint>
#include <optional>

#include "absl/status/statusor.h"

namespace quire {

// How an abstractive summary divides the model's context. Tokens.
struct PassLengths {
  int32_t new_tokens = 0;       // longest answer of the last pass
  int32_t part_new_tokens = 0;  // longest answer of a part's pass
  int64_t document_tokens = 0;  // of the document, or of a part, that one pass can read
};

struct LengthRequest {
  int32_t context_tokens = 0;
  int64_t prompt_tokens = 0;  // all that is not the document
  int32_t prompt_set_limit = 0;
  std::optional<int32_t> requested_limit;  // max_new_tokens of the request
  int32_t target_words = 0;
};

// The answer's limit is the requested one; else, with target_words, 2 tokens for each
// word (English takes about 1.3) and 128 more; else the prompt set's. What the request
// did not name is cut to a quarter of the context. A part's answer is never longer than a
// quarter of what a part may hold, so that every level of combining makes the text
// shorter. kInvalidArgument: less than kMinDocumentTokens is left for the document.
absl::StatusOr<PassLengths> PlanPassLengths(const LengthRequest& request);

inline constexpr int64_t kMinDocumentTokens = 16;

// The words asked of each part's summary: three times as much as the end wants, so that
// the last pass has something to choose from, but at least 50 for each, and never more
// than the end wants. 0 if target_words is.
int32_t PartWords(int32_t target_words, int64_t parts);

// The longest answer for a number of words: see PlanPassLengths.
int32_t TokensForWords(int32_t words);

// Tokens of so many parts' answers, put together, if each is as long as it may be.
int64_t JoinedTokens(int64_t parts, const PassLengths& lengths);

struct PassEstimate {
  int32_t passes = 1;
  int32_t levels = 0;
};

// Passes and levels of combining if every part's answer is as long as it may be.
// REQUIRES: parts >= 1.
PassEstimate EstimatePasses(int64_t parts, const PassLengths& lengths);

}  // namespace quire

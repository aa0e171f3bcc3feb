#include "core/summarize/summary_lengths.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "core/summarize/document_plan.h"

namespace quire {
namespace {

// Twice the tokens that English takes, and room for models that hold short lengths badly:
// quire-135m wrote 134 tokens when asked for 40 words and 188 for 100, then ended by
// itself.
constexpr int32_t kTokensPerWord = 2;
constexpr int32_t kSpareTokens = 128;
constexpr int32_t kMinPartWords = 50;
constexpr int32_t kPartWordsFactor = 3;
// A blank line between two parts' summaries.
constexpr int64_t kSeparatorTokens = 2;

}  // namespace

int32_t TokensForWords(int32_t words) { return kTokensPerWord * words + kSpareTokens; }

absl::StatusOr<PassLengths> PlanPassLengths(const LengthRequest& request) {
  const int32_t usual = request.target_words > 0 ? TokensForWords(request.target_words)
                                                 : request.prompt_set_limit;
  PassLengths lengths;
  lengths.new_tokens = request.requested_limit.value_or(
      std::max(1, std::min(usual, request.context_tokens / 4)));
  lengths.document_tokens =
      request.context_tokens - request.prompt_tokens - lengths.new_tokens;
  if (lengths.document_tokens < kMinDocumentTokens) {
    return absl::InvalidArgumentError(
        absl::StrCat("max_new_tokens is ", lengths.new_tokens,
                     " and the prompt around the document takes ", request.prompt_tokens,
                     " tokens; they must leave at least ", kMinDocumentTokens,
                     " of the model's context of ", request.context_tokens,
                     " tokens for the document"));
  }
  lengths.part_new_tokens = static_cast<int32_t>(
      std::min<int64_t>(lengths.new_tokens, lengths.document_tokens / 4));
  return lengths;
}

int32_t PartWords(int32_t target_words, int64_t parts) {
  const int64_t share = kPartWordsFactor * int64_t{target_words} / parts;
  return static_cast<int32_t>(
      std::clamp<int64_t>(share, std::min(kMinPartWords, target_words), target_words));
}

int64_t JoinedTokens(int64_t parts, const PassLengths& lengths) {
  return parts * (lengths.part_new_tokens + kSeparatorTokens);
}

PassEstimate EstimatePasses(int64_t parts, const PassLengths& lengths) {
  PassEstimate estimate;
  while (parts > 1) {
    estimate.passes += static_cast<int32_t>(parts);
    ++estimate.levels;
    parts = PartCount(JoinedTokens(parts, lengths), lengths.document_tokens);
  }
  return estimate;
}

}  // namespace quire

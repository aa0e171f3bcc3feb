#include "core/summarize/summary_estimate.h"

#include <algorithm>

#include "core/base/status_macros.h"
#include "core/scoring/text_scorer.h"
#include "core/summarize/document_plan.h"
#include "core/summarize/summary_job.h"
#include "core/summarize/summary_lengths.h"

namespace quire {
namespace {

std::vector<SummaryPasses> WindowsOf(int64_t tokens, int32_t context_tokens) {
  std::vector<SummaryPasses> passes;
  for (const ScoreWindows& windows : PlanScoreWindows(tokens, context_tokens, 0)) {
    passes.push_back({.prompt_tokens = windows.read_tokens, .count = windows.count});
  }
  return passes;
}

std::vector<SummaryPasses> AnswersOf(int64_t document_tokens, int32_t context_tokens,
                                     const PassLengths& lengths) {
  const int64_t prompt = context_tokens - lengths.document_tokens - lengths.new_tokens;
  std::vector<SummaryPasses> passes;
  int64_t tokens = document_tokens;
  for (int64_t parts = PartCount(tokens, lengths.document_tokens); parts > 1;
       parts = PartCount(tokens, lengths.document_tokens)) {
    passes.push_back({.prompt_tokens = prompt + (tokens + parts - 1) / parts,
                      .new_tokens = lengths.part_new_tokens,
                      .count = parts});
    tokens = JoinedTokens(parts, lengths);
  }
  passes.push_back({.prompt_tokens = prompt + tokens, .new_tokens = lengths.new_tokens});
  return passes;
}

}  // namespace

absl::StatusOr<std::vector<SummaryPasses>> EstimateSummary(
    const TextModel& model, int64_t document_tokens, const SummaryOptions& options) {
  QUIRE_ASSIGN_OR_RETURN(const SummaryStrategy strategy,
                         ChooseStrategy(model, options.strategy));
  if (strategy == SummaryStrategy::kExtractive) {
    return WindowsOf(document_tokens, model.context_tokens());
  }
  QUIRE_ASSIGN_OR_RETURN(const PassLengths lengths, PlanLengths(model, options));
  return AnswersOf(document_tokens, model.context_tokens(), lengths);
}

}  // namespace quire

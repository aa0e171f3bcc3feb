#pragma once

#include <vector>

#include "absl/types/span.h"
#include "core/summarize/sentence_selection.h"
#include "core/summarize/sentence_splitter.h"

namespace quire {

// How much the model looks back at each sentence, as its rank in the text: in (0, 1), the
// larger the more; 0.5 for all if no token has an importance. By the mean over a
// sentence's tokens of log importance, less the median of the tokens around: what stands
// early, and the first tokens above all, is looked at for its place (StreamingLLM, arXiv
// 2309.17453), and ranks make texts comparable. Tokens of importance 0 do not count.
// tokens: in text order. Pure; linear in the text.
std::vector<double> RankByImportance(absl::Span<const Sentence> sentences,
                                     absl::Span<const TokenReading> tokens);

}  // namespace quire

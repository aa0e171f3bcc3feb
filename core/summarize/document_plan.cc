#include "core/summarize/document_plan.h"

#include <algorithm>
#include <cstdlib>

#include "core/base/check.h"
#include "core/summarize/sentence_splitter.h"
#include "core/summarize/utf8.h"

namespace quire {
namespace {

// Parts are planned at this share of the largest size, so that the cuts have room to
// move.
constexpr double kPlannedShare = 0.9;
// How far a cut may move from the even one, as a share of a part.
constexpr double kCutSlack = 0.25;
// Longer sentences are cut anyway: a part may end there.
constexpr int64_t kMaxSentenceBytes = 4000;

// Token indices before which the text may be cut, ascending.
struct Cuts {
  std::vector<int64_t> paragraphs;
  std::vector<int64_t> sentences;
};

// A token starts here that shares no byte with the one before, at a character's start.
bool IsCleanCut(std::string_view text, absl::Span<const ByteSpan> spans, int64_t token) {
  const int64_t begin = spans[token].begin;
  return token > 0 && spans[token - 1].end <= begin && IsCharacterBoundary(text, begin);
}

Cuts FindCuts(std::string_view text, absl::Span<const ByteSpan> spans) {
  Cuts cuts;
  int64_t token = 0;
  const int64_t count = static_cast<int64_t>(spans.size());
  for (const Sentence& sentence : SplitSentences(text, kMaxSentenceBytes)) {
    // The token may begin before the sentence, with the space in front of its first word.
    while (token < count && spans[token].end <= sentence.span.begin) ++token;
    if (token >= count || !IsCleanCut(text, spans, token)) continue;
    cuts.sentences.push_back(token);
    if (sentence.begins_paragraph) cuts.paragraphs.push_back(token);
  }
  return cuts;
}

// The candidate in [low, high] nearest to `ideal`, or -1.
int64_t Nearest(const std::vector<int64_t>& candidates, int64_t low, int64_t high,
                int64_t ideal) {
  int64_t best = -1;
  auto at = std::lower_bound(candidates.begin(), candidates.end(), low);
  for (; at != candidates.end() && *at <= high; ++at) {
    if (best >= 0 && std::abs(*at - ideal) >= std::abs(best - ideal)) break;
    best = *at;
  }
  return best;
}

// The clean cut in [low, high] nearest to `ideal`; `ideal` if there is none.
int64_t NearestToken(std::string_view text, absl::Span<const ByteSpan> spans, int64_t low,
                     int64_t high, int64_t ideal) {
  for (int64_t distance = 0; distance <= high - low; ++distance) {
    const int64_t before = ideal - distance;
    const int64_t after = ideal + distance;
    if (before >= low && IsCleanCut(text, spans, before)) return before;
    if (after <= high && IsCleanCut(text, spans, after)) return after;
  }
  return ideal;
}

}  // namespace

int64_t PartCount(int64_t tokens, int64_t max_tokens) {
  if (tokens <= max_tokens) return 1;
  const int64_t planned = std::max<int64_t>(1, max_tokens * 9 / 10);
  return (tokens + planned - 1) / planned;
}

std::vector<DocumentPart> PlanParts(std::string_view text,
                                    absl::Span<const ByteSpan> token_spans,
                                    int64_t max_tokens) {
  const int64_t total = static_cast<int64_t>(token_spans.size());
  const int64_t size = static_cast<int64_t>(text.size());
  QUIRE_CHECK(total >= 1 && max_tokens >= 1);
  if (total <= max_tokens) return {{{0, size}, 0, total}};
  const int64_t planned =
      std::max<int64_t>(1, static_cast<int64_t>(max_tokens * kPlannedShare));
  const int64_t count = (total + planned - 1) / planned;
  const int64_t slack = static_cast<int64_t>(kCutSlack * total / count);
  const Cuts cuts = FindCuts(text, token_spans);

  std::vector<DocumentPart> parts;
  int64_t token = 0;
  int64_t byte = 0;
  for (int64_t left = count; left > 1; --left) {
    const int64_t ideal = token + (total - token) / left;
    // What is left must fit the parts that are left, and each must get a token.
    const int64_t low =
        std::max({token + 1, ideal - slack, total - (left - 1) * max_tokens});
    const int64_t high =
        std::min({token + max_tokens, ideal + slack, total - (left - 1)});
    int64_t cut = Nearest(cuts.paragraphs, low, high, ideal);
    if (cut < 0) cut = Nearest(cuts.sentences, low, high, ideal);
    if (cut < 0) cut = NearestToken(text, token_spans, low, high, ideal);
    const int64_t cut_byte = std::max(byte, token_spans[cut].begin);
    parts.push_back({{byte, cut_byte}, token, cut});
    token = cut;
    byte = cut_byte;
  }
  parts.push_back({{byte, size}, token, total});
  return parts;
}

}  // namespace quire

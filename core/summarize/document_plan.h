#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "absl/types/span.h"
#include "core/base/types.h"

namespace quire {

// A run of a document's tokens that is read in one pass.
struct DocumentPart {
  ByteSpan bytes;           // of the text
  int64_t token_begin = 0;  // tokens [token_begin, token_end)
  int64_t token_end = 0;
  friend bool operator==(const DocumentPart&, const DocumentPart&) = default;
};

// How many parts PlanParts makes: one if all fits, else as many as fill nine tenths of
// max_tokens each, so that the cuts have room to move. REQUIRES: both >= 1.
int64_t PartCount(int64_t tokens, int64_t max_tokens);

// Cuts a text of token_spans.size() tokens into as few parts of at most max_tokens as
// leave room to choose where to cut, of about the same size. A cut is made at the
// paragraph's end nearest to the even cut, else the sentence's, else between tokens at a
// character's boundary. The parts' bytes follow each other and cover the text, their
// tokens all the tokens. One part if all fits. token_spans[i]: bytes of token i, in
// order. Pure. REQUIRES: at least one token, max_tokens >= 1.
std::vector<DocumentPart> PlanParts(std::string_view text,
                                    absl::Span<const ByteSpan> token_spans,
                                    int64_t max_tokens);

}  // namespace quire

#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "core/base/types.h"

namespace quire {

struct Sentence {
  ByteSpan span;                  // without the white space around it; never empty
  bool begins_paragraph = false;  // the first one does
};

// Cuts a text into sentences, in order. Spans do not overlap, none is longer than
// max_bytes, what lies between them is white space only, and no UTF-8 character is split.
//
// English first, but safe for any UTF-8: a sentence ends after . ! ? or an ellipsis (with
// the quotes and brackets that close there) when what follows does not go on in lower
// case, after a full stop of Chinese, Japanese, Hindi or Arabic, and always at a
// paragraph's end. Titles, initials, numbered items and the like do not end it. A
// paragraph ends at a blank line, and at a single line break only if the next line is
// indented deeper or starts a list item, or the line before is too long to have been
// wrapped by hand.
//
// Over-long sentences are cut at white space, else between characters. Bytes that are not
// UTF-8 count as characters of their own. Pure; linear time. REQUIRES: max_bytes >= 4.
std::vector<Sentence> SplitSentences(std::string_view text, int64_t max_bytes);

}  // namespace quire

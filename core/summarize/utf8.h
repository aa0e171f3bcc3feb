#pragma once

#include <cstdint>
#include <string_view>

namespace quire {

struct CodePoint {
  char32_t value = 0;
  int64_t length = 0;  // bytes
};

// The character at `at`. A byte that starts no complete character is U+FFFD of length 1.
// REQUIRES: at < text.size().
CodePoint CodePointAt(std::string_view text, int64_t at);
// The character that ends at `end`. REQUIRES: 0 < end <= text.size().
CodePoint CodePointBefore(std::string_view text, int64_t end);

// True if a character starts at `at`, or the text ends there.
bool IsCharacterBoundary(std::string_view text, int64_t at);

// Unicode's White_Space property.
bool IsWhiteSpace(char32_t c);
// Lower case of the Latin, Greek and Cyrillic blocks; all other scripts have none.
bool IsLowerCase(char32_t c);
// A letter or digit; any character of a script beyond ASCII that is neither white space
// nor general punctuation.
bool IsWordCharacter(char32_t c);

// First byte at or after `at` that is not white space, or the text's size.
int64_t SkipWhiteSpace(std::string_view text, int64_t at);

}  // namespace quire

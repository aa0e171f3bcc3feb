#include "core/summarize/utf8.h"

namespace quire {
namespace {

bool IsContinuation(char byte) { return (static_cast<uint8_t>(byte) & 0xC0) == 0x80; }

// Bytes that a character takes by its first byte; 0: no character starts with it.
int64_t LengthByLead(uint8_t lead) {
  if (lead < 0x80) return 1;
  if (lead >= 0xC2 && lead < 0xE0) return 2;
  if (lead >= 0xE0 && lead < 0xF0) return 3;
  if (lead >= 0xF0 && lead < 0xF5) return 4;
  return 0;
}

bool InRange(char32_t c, char32_t first, char32_t last) {
  return c >= first && c <= last;
}

}  // namespace

CodePoint CodePointAt(std::string_view text, int64_t at) {
  constexpr CodePoint kInvalid{U'\uFFFD', 1};
  const uint8_t lead = static_cast<uint8_t>(text[at]);
  const int64_t length = LengthByLead(lead);
  if (length == 0 || at + length > static_cast<int64_t>(text.size())) return kInvalid;
  if (length == 1) return {lead, 1};
  char32_t value = lead & (0x7F >> length);
  for (int64_t i = 1; i < length; ++i) {
    if (!IsContinuation(text[at + i])) return kInvalid;
    value = (value << 6) | (static_cast<uint8_t>(text[at + i]) & 0x3F);
  }
  return {value, length};
}

CodePoint CodePointBefore(std::string_view text, int64_t end) {
  for (int64_t length = 1; length <= 4 && length <= end; ++length) {
    if (IsContinuation(text[end - length])) continue;
    const CodePoint found = CodePointAt(text, end - length);
    if (found.length == length) return found;
    break;
  }
  return {U'\uFFFD', 1};
}

bool IsCharacterBoundary(std::string_view text, int64_t at) {
  return at >= static_cast<int64_t>(text.size()) || !IsContinuation(text[at]);
}

bool IsWhiteSpace(char32_t c) {
  return c == ' ' || InRange(c, '\t', '\r') || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         InRange(c, 0x2000, 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F ||
         c == 0x205F || c == 0x3000;
}

bool IsLowerCase(char32_t c) {
  if (InRange(c, 'a', 'z')) return true;
  if (InRange(c, 0xDF, 0xFF)) return c != 0xF7;
  if (InRange(c, 0x100, 0x137) || InRange(c, 0x14A, 0x177)) return c % 2 == 1;
  if (InRange(c, 0x139, 0x148) || InRange(c, 0x179, 0x17E)) return c % 2 == 0;
  return InRange(c, 0x3AC, 0x3CE) || InRange(c, 0x430, 0x45F);
}

bool IsWordCharacter(char32_t c) {
  if (c < 0x80)
    return InRange(c, '0', '9') || InRange(c, 'A', 'Z') || InRange(c, 'a', 'z');
  if (IsWhiteSpace(c) || InRange(c, 0x80, 0xBF) || c == 0xD7 || c == 0xF7) return false;
  return !InRange(c, 0x2000, 0x206F) && !InRange(c, 0x3000, 0x303F) &&
         !InRange(c, 0xFF01, 0xFF0F) && c != 0xFFFD;
}

int64_t SkipWhiteSpace(std::string_view text, int64_t at) {
  while (at < static_cast<int64_t>(text.size())) {
    const CodePoint c = CodePointAt(text, at);
    if (!IsWhiteSpace(c.value)) break;
    at += c.length;
  }
  return at;
}

}  // namespace quire

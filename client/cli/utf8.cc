#include "client/cli/utf8.h"

#include <cstdint>

namespace quire::cli {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

uint8_t ByteAt(std::string_view text, size_t i) { return static_cast<uint8_t>(text[i]); }

struct Lead {
  size_t size;
  uint8_t second_low, second_high;  // what the second byte may be
};

// The lead byte decides the size and, to keep out overlong forms, surrogates and what
// lies beyond U+10FFFF, the range of the second byte.
Lead LeadOf(uint8_t byte) {
  if (byte >= 0xC2 && byte <= 0xDF) return {2, 0x80, 0xBF};
  if (byte == 0xE0) return {3, 0xA0, 0xBF};
  if (byte == 0xED) return {3, 0x80, 0x9F};
  if (byte >= 0xE1 && byte <= 0xEF) return {3, 0x80, 0xBF};
  if (byte == 0xF0) return {4, 0x90, 0xBF};
  if (byte >= 0xF1 && byte <= 0xF3) return {4, 0x80, 0xBF};
  if (byte == 0xF4) return {4, 0x80, 0x8F};
  return {0, 0, 0};
}

// Of a well-formed character.
uint32_t CodePoint(std::string_view character) {
  if (character.size() == 1) return ByteAt(character, 0);
  // The lead byte's own bits: 5, 4 or 3.
  uint32_t value = ByteAt(character, 0) & (0x7F >> character.size());
  for (size_t i = 1; i < character.size(); ++i) {
    value = value << 6 | (ByteAt(character, i) & 0x3F);
  }
  return value;
}

// C1 controls, marks and overrides of the writing direction, line and paragraph
// separators.
bool DrivesTerminal(uint32_t code_point) {
  return (code_point >= 0x80 && code_point <= 0x9F) || code_point == 0x061C ||
         (code_point >= 0x200E && code_point <= 0x200F) ||
         (code_point >= 0x2028 && code_point <= 0x202E) ||
         (code_point >= 0x2066 && code_point <= 0x2069);
}

void AppendAscii(uint8_t byte, std::string& out) {
  if ((byte >= 0x20 && byte != 0x7F) || byte == '\n' || byte == '\t') {
    out += static_cast<char>(byte);
    return;
  }
  // U+2400 is E2 90 80; DELETE's picture is U+2421.
  out += "\xE2\x90";
  out += static_cast<char>(byte == 0x7F ? 0xA1 : 0x80 + byte);
}

}  // namespace

size_t Utf8CharacterSize(std::string_view text) {
  if (text.empty()) return 0;
  if (ByteAt(text, 0) < 0x80) return 1;
  const Lead lead = LeadOf(ByteAt(text, 0));
  if (lead.size == 0 || text.size() < lead.size) return 0;
  if (ByteAt(text, 1) < lead.second_low || ByteAt(text, 1) > lead.second_high) return 0;
  for (size_t i = 2; i < lead.size; ++i) {
    if ((ByteAt(text, i) & 0xC0) != 0x80) return 0;
  }
  return lead.size;
}

int Utf8Columns(std::string_view character) {
  const uint32_t code_point = CodePoint(character);
  const auto in = [code_point](uint32_t first, uint32_t last) {
    return code_point >= first && code_point <= last;
  };
  if (in(0x300, 0x36F) || in(0x200B, 0x200D) || in(0x20D0, 0x20FF) ||
      in(0xFE00, 0xFE0F)) {
    return 0;
  }
  const bool wide = in(0x1100, 0x115F) || in(0x2E80, 0xA4CF) || in(0xAC00, 0xD7A3) ||
                    in(0xF900, 0xFAFF) || in(0xFE30, 0xFE6F) || in(0xFF00, 0xFF60) ||
                    in(0x1F300, 0x1F64F) || in(0x1F900, 0x1F9FF) || in(0x20000, 0x3FFFD);
  return wide ? 2 : 1;
}

std::optional<size_t> FirstInvalidUtf8(std::string_view text) {
  for (size_t i = 0; i < text.size();) {
    const size_t size = Utf8CharacterSize(text.substr(i));
    if (size == 0) return i;
    i += size;
  }
  return std::nullopt;
}

std::string Neutralise(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  while (!text.empty()) {
    const size_t size = Utf8CharacterSize(text);
    const std::string_view character = text.substr(0, size);
    if (size == 1) {
      AppendAscii(ByteAt(text, 0), out);
    } else if (size == 0 || DrivesTerminal(CodePoint(character))) {
      out += kReplacement;
    } else {
      out += character;
    }
    text.remove_prefix(size == 0 ? 1 : size);
  }
  return out;
}

}  // namespace quire::cli

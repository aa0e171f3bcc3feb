#include "core/tokenizer/stream_decoder.h"

#include <algorithm>
#include <cstddef>
#include <utility>

namespace quire {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";  // U+FFFD

bool InRange(unsigned char byte, unsigned char low, unsigned char high) {
  return low <= byte && byte <= high;
}

// The bytes that a character with this lead byte has (0: not a lead byte), and the values
// that its second byte may have (The Unicode Standard, table 3-7).
struct LeadByte {
  size_t length;
  unsigned char second_low = 0x80;
  unsigned char second_high = 0xBF;
};

LeadByte Classify(unsigned char lead) {
  if (lead < 0x80) return {1};
  if (InRange(lead, 0xC2, 0xDF)) return {2};
  if (lead == 0xE0) return {3, 0xA0, 0xBF};
  if (lead == 0xED) return {3, 0x80, 0x9F};
  if (InRange(lead, 0xE1, 0xEF)) return {3};
  if (lead == 0xF0) return {4, 0x90, 0xBF};
  if (InRange(lead, 0xF1, 0xF3)) return {4};
  if (lead == 0xF4) return {4, 0x80, 0x8F};
  return {0};
}

struct Prefix {
  size_t size;      // bytes of the character, or of the longest start of one
  bool complete;    // a whole character
  bool may_extend;  // everything there is, and more bytes could complete it
};

// Looks at the first character of a text that is not empty.
Prefix FirstCharacter(std::string_view text) {
  const LeadByte lead = Classify(static_cast<unsigned char>(text[0]));
  if (lead.length == 0) return {1, false, false};
  size_t size = 1;
  while (size < lead.length && size < text.size()) {
    const auto byte = static_cast<unsigned char>(text[size]);
    const bool fits = size == 1 ? InRange(byte, lead.second_low, lead.second_high)
                                : InRange(byte, 0x80, 0xBF);
    if (!fits) return {size, false, false};
    ++size;
  }
  return {size, size == lead.length, size < lead.length};
}

// Moves whole characters out of `pending`; what can never be one becomes U+FFFD, one for
// each maximal start of a character (as Python, Rust and browsers do).
std::string TakeCharacters(std::string& pending) {
  std::string text;
  size_t at = 0;
  while (at < pending.size()) {
    const std::string_view rest = std::string_view(pending).substr(at);
    const Prefix first = FirstCharacter(rest);
    if (first.may_extend) break;
    text += first.complete ? rest.substr(0, first.size) : kReplacement;
    at += first.size;
  }
  pending.erase(0, at);
  return text;
}

// Length of the longest end of `text` that is a start of `stop`, but not all of it.
size_t OverlapWith(std::string_view text, std::string_view stop) {
  if (stop.empty()) return 0;
  for (size_t size = std::min(text.size(), stop.size() - 1); size > 0; --size) {
    if (text.substr(text.size() - size) == stop.substr(0, size)) return size;
  }
  return 0;
}

}  // namespace

std::string StreamDecoder::Push(TokenId token) {
  // Embeddings are often padded past the vocabulary; the extra rows have no text.
  if (token >= tokenizer_.vocab_size()) return "";
  pending_ += tokenizer_.TokenBytes(token);
  return TakeCharacters(pending_);
}

std::string StreamDecoder::Finish() {
  // At most the start of one character is held.
  const bool held = !std::exchange(pending_, "").empty();
  return held ? std::string(kReplacement) : "";
}

StopMatcher::Output StopMatcher::Push(std::string_view piece) {
  pending_ += piece;
  // The stop string that is complete first wins, whatever the pieces; of several that end
  // together, the longest.
  size_t best_end = std::string::npos;
  const std::string* best = nullptr;
  for (const std::string& stop : stops_) {
    const size_t at = stop.empty() ? std::string::npos : pending_.find(stop);
    if (at == std::string::npos) continue;
    const size_t end = at + stop.size();
    if (best == nullptr || end < best_end ||
        (end == best_end && stop.size() > best->size())) {
      best_end = end;
      best = &stop;
    }
  }
  if (best != nullptr) {
    pending_.resize(best_end - best->size());
    return {.text = std::exchange(pending_, ""), .stopped = true, .stop = *best};
  }
  size_t held = 0;
  for (const std::string& stop : stops_)
    held = std::max(held, OverlapWith(pending_, stop));
  const size_t safe = pending_.size() - held;
  Output output{.text = pending_.substr(0, safe)};
  pending_.erase(0, safe);
  return output;
}

std::string StopMatcher::Finish() { return std::exchange(pending_, ""); }

}  // namespace quire

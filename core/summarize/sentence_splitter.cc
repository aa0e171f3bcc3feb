#include "core/summarize/sentence_splitter.h"

#include <algorithm>
#include <array>
#include <string>

#include "absl/strings/ascii.h"
#include "core/base/check.h"
#include "core/summarize/utf8.h"

namespace quire {
namespace {

using std::string_view;

// A line longer than this was not wrapped by hand: its line break ends a paragraph.
constexpr int64_t kLongestWrappedLineBytes = 200;

template <size_t N>
bool Contains(const std::array<string_view, N>& words, string_view word) {
  return std::find(words.begin(), words.end(), word) != words.end();
}

// A name follows: the stop never ends a sentence.
constexpr auto kTitles = std::to_array<string_view>(
    {"mr",  "mrs",  "ms",     "mx",  "dr",  "prof", "rev", "hon",
     "st",  "mt",   "messrs", "mme", "gen", "col",  "maj", "lt",
     "sgt", "capt", "cmdr",   "gov", "vs",  "viz",  "e.g", "i.e"});
// A number follows: the stop ends a sentence unless one does ("No. I will not.").
constexpr auto kBeforeNumber = std::to_array<string_view>(
    {"no", "nos", "vol", "vols", "fig", "figs", "p",    "pp",  "ch",  "sec",
     "eq", "art", "cf",  "jan",  "feb", "aug",  "sept", "oct", "nov", "dec"});
// May stand inside a sentence or end it.
constexpr auto kAmbiguous = std::to_array<string_view>(
    {"etc", "inc", "ltd", "co", "corp", "bros", "jr", "sr", "al", "ca", "dept", "ave"});
// Words that so often open a sentence that an ambiguous stop before them ends one.
constexpr auto kOpeners = std::to_array<string_view>(
    {"The",  "A",     "An",    "It",     "He",    "She",   "They",  "We",    "I",
     "You",  "This",  "That",  "Then",   "There", "These", "Those", "In",    "On",
     "At",   "As",    "For",   "From",   "But",   "And",   "Or",    "So",    "If",
     "When", "While", "After", "Before", "With",  "His",   "Her",   "Their", "Its",
     "My",   "Our",   "What",  "Who",    "How",   "Why",   "No",    "Now"});

bool IsClosing(char32_t c) {
  switch (c) {
    case '"':
    case '\'':
    case ')':
    case ']':
    case '}':
    case '*':
    case '_':
    case 0xBB:
    case 0x2019:
    case 0x201D:
    case 0x203A:
    case 0x300B:
    case 0x300D:
    case 0x300F:
    case 0x3011:
    case 0xFF09:
      return true;
    default:
      return false;
  }
}

bool IsOpening(char32_t c) {
  switch (c) {
    case '"':
    case '\'':
    case '(':
    case '[':
    case '{':
    case '*':
    case '_':
    case 0xAB:
    case 0x2018:
    case 0x201C:
    case 0x2039:
    case 0x300A:
    case 0x300C:
    case 0x300E:
    case 0x3010:
    case 0xFF08:
      return true;
    default:
      return false;
  }
}

// Ends a sentence even if no white space follows.
bool IsFullWidthStop(char32_t c) {
  return c == 0x3002 || c == 0xFF01 || c == 0xFF1F || c == 0xFF61;
}

bool IsStop(char32_t c) {
  return c == '.' || c == '!' || c == '?' || c == 0x2026 || c == 0x203C || c == 0x2049 ||
         c == 0x61F || c == 0x6D4 || c == 0x964 || c == 0x965 || IsFullWidthStop(c);
}

int64_t SkipOpening(string_view text, int64_t at) {
  while (at < static_cast<int64_t>(text.size())) {
    const CodePoint c = CodePointAt(text, at);
    if (!IsOpening(c.value)) break;
    at += c.length;
  }
  return at;
}

bool OpensSentence(string_view text, int64_t at) {
  const int64_t size = static_cast<int64_t>(text.size());
  at = SkipOpening(text, at);
  int64_t end = at;
  while (end < size && absl::ascii_isalnum(static_cast<uint8_t>(text[end]))) ++end;
  // "A. A. Milne": a further initial, not the article.
  if (end < size && text[end] == '.') return false;
  return Contains(kOpeners, text.substr(at, end - at));
}

bool AllOf(string_view word, string_view alphabet) {
  return !word.empty() && word.find_first_not_of(alphabet) == string_view::npos;
}

// "1." or "IV." at a sentence's start numbers what follows.
bool IsItemNumber(string_view word) {
  return word.size() <= 5 && (AllOf(word, "0123456789") || AllOf(word, "IVXLC"));
}

// "J", "U.S", "a.m": one letter between stops.
bool IsInitials(string_view word) {
  for (size_t i = 0; i < word.size(); ++i) {
    const bool fits =
        i % 2 == 1 ? word[i] == '.' : absl::ascii_isalpha(static_cast<uint8_t>(word[i]));
    if (!fits) return false;
  }
  return word.size() % 2 == 1 && (word.size() > 1 || absl::ascii_isupper(word[0]));
}

// Whether the single full stop after text[begin, stop) ends a sentence when `next`
// follows.
bool FullStopEnds(string_view text, int64_t begin, int64_t stop, int64_t next) {
  int64_t word_begin = stop;
  while (word_begin > begin) {
    const CodePoint c = CodePointBefore(text, word_begin);
    if (IsWhiteSpace(c.value) || IsOpening(c.value)) break;
    word_begin -= c.length;
  }
  const string_view word = text.substr(word_begin, stop - word_begin);
  if (word_begin == begin && IsItemNumber(word)) return false;
  std::string lower(word);
  absl::AsciiStrToLower(&lower);
  if (Contains(kTitles, lower)) return false;
  if (Contains(kBeforeNumber, lower)) {
    return !absl::ascii_isdigit(static_cast<uint8_t>(text[next]));
  }
  if (IsInitials(word) || Contains(kAmbiguous, lower)) return OpensSentence(text, next);
  return true;
}

// Whether a sentence that begins at `begin` ends at `end`, where white space starts;
// `next` is the next character that is none.
bool SentenceEnds(string_view text, int64_t begin, int64_t end, int64_t next) {
  int64_t stop_end = end;
  while (stop_end > begin && IsClosing(CodePointBefore(text, stop_end).value)) {
    stop_end -= CodePointBefore(text, stop_end).length;
  }
  if (stop_end == begin) return false;
  const CodePoint stop = CodePointBefore(text, stop_end);
  if (!IsStop(stop.value)) return false;
  const int64_t letter = SkipOpening(text, next);
  if (letter >= static_cast<int64_t>(text.size())) return true;
  const char32_t following = CodePointAt(text, letter).value;
  if (IsLowerCase(following) || IsStop(following)) return false;  // "What?" he asked
  const int64_t word_end = stop_end - stop.length;
  const bool ellipsis = word_end > begin && text[word_end - 1] == '.';
  return stop.value != '.' || ellipsis || FullStopEnds(text, begin, word_end, next);
}

bool StartsListItem(string_view line) {
  if (line.empty()) return false;
  const CodePoint mark = CodePointAt(line, 0);
  const size_t digits = std::min(line.find_first_not_of("0123456789"), line.size());
  const size_t after = digits == 0 ? mark.length : digits + 1;
  const bool marked = digits == 0
                          ? mark.value == '-' || mark.value == '*' || mark.value == 0x2022
                          : digits < line.size() && digits <= 3 &&
                                (line[digits] == '.' || line[digits] == ')');
  return marked && after < line.size() && (line[after] == ' ' || line[after] == '\t');
}

int64_t IndentAt(string_view text, int64_t line) {
  int64_t indent = 0;
  for (; line < static_cast<int64_t>(text.size()); ++line) {
    if (text[line] != ' ' && text[line] != '\t') break;
    indent += text[line] == '\t' ? 4 : 1;
  }
  return indent;
}

class Splitter {
 public:
  Splitter(string_view text, int64_t max_bytes) : text_(text), max_bytes_(max_bytes) {}

  std::vector<Sentence> Run() {
    const int64_t size = static_cast<int64_t>(text_.size());
    int64_t at = SkipWhiteSpace(text_, 0);
    begin_ = at;
    while (at < size) {
      const CodePoint c = CodePointAt(text_, at);
      if (IsWhiteSpace(c.value)) {
        full_width_stop_ = false;
        at = OnWhiteSpace(at);
        continue;
      }
      if (full_width_stop_ && !IsClosing(c.value) && !IsStop(c.value)) {
        full_width_stop_ = false;
        Emit(at);
      }
      full_width_stop_ = full_width_stop_ || IsFullWidthStop(c.value);
      at += c.length;
    }
    Emit(size);
    return std::move(sentences_);
  }

 private:
  // The white space that starts at `end`: returns where it ends.
  int64_t OnWhiteSpace(int64_t end) {
    const int64_t next = SkipWhiteSpace(text_, end);
    const bool paragraph = IsParagraphBreak(end, next);
    if (begin_ < end && (paragraph || SentenceEnds(text_, begin_, end, next))) Emit(end);
    if (begin_ >= end) begin_ = next;
    paragraph_ = paragraph_ || paragraph;
    return next;
  }

  bool IsParagraphBreak(int64_t begin, int64_t end) {
    int64_t breaks = 0;
    int64_t line = begin;
    for (int64_t at = begin; at < end; ++at) {
      if (text_[at] == '\f') return true;
      if (text_[at] != '\n') continue;
      ++breaks;
      line = at + 1;
    }
    if (breaks == 0) return false;
    const int64_t indent = IndentAt(text_, line);
    const bool paragraph = breaks > 1 || indent >= indent_ + 2 ||
                           begin - line_ > kLongestWrappedLineBytes ||
                           StartsListItem(text_.substr(end));
    line_ = line;
    indent_ = indent;
    return paragraph;
  }

  // Ends the sentence at `end` in pieces of at most max_bytes_.
  void Emit(int64_t end) {
    while (end > begin_ && IsWhiteSpace(CodePointBefore(text_, end).value)) {
      end -= CodePointBefore(text_, end).length;
    }
    while (end - begin_ > max_bytes_) {
      int64_t cut = CutBefore(begin_ + max_bytes_);
      Add(cut);
      begin_ = SkipWhiteSpace(text_, cut);
    }
    if (end > begin_) Add(end);
    begin_ = std::max(begin_, end);
  }

  // The last place at or before `limit` to cut an over-long sentence.
  int64_t CutBefore(int64_t limit) {
    for (int i = 0; i < 3 && !IsCharacterBoundary(text_, limit); ++i) --limit;
    for (int64_t at = limit; at > begin_ + 1; at -= CodePointBefore(text_, at).length) {
      if (!IsWhiteSpace(CodePointAt(text_, at).value)) continue;
      while (IsWhiteSpace(CodePointBefore(text_, at).value)) {
        at -= CodePointBefore(text_, at).length;
      }
      return at;
    }
    return limit;
  }

  void Add(int64_t end) {
    sentences_.push_back({{begin_, end}, paragraph_});
    paragraph_ = false;
  }

  string_view text_;
  int64_t max_bytes_;
  std::vector<Sentence> sentences_;
  int64_t begin_ = 0;             // of the sentence at hand
  bool paragraph_ = true;         // the sentence at hand begins one
  bool full_width_stop_ = false;  // seen, and since then only what closes
  int64_t line_ = 0;              // where the line at hand begins
  int64_t indent_ = 0;            // of the line at hand
};

}  // namespace

std::vector<Sentence> SplitSentences(std::string_view text, int64_t max_bytes) {
  QUIRE_CHECK(max_bytes >= 4);
  return Splitter(text, max_bytes).Run();
}

}  // namespace quire

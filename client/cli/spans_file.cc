#include "client/cli/spans_file.h"

#include <string>

#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"

namespace quire::cli {

absl::StatusOr<std::vector<v1::ByteSpan>> ParseSpans(std::string_view text) {
  std::vector<v1::ByteSpan> spans;
  const std::vector<std::string> lines = absl::StrSplit(std::string(text), '\n');
  int number = 0;
  for (const std::string& line : lines) {
    ++number;
    const std::vector<std::string> words =
        absl::StrSplit(line, absl::ByAnyChar(" \t\r"), absl::SkipEmpty());
    if (words.empty() || words[0][0] == '#') continue;
    int64_t begin = 0, end = 0;
    if (words.size() != 2 || !absl::SimpleAtoi(words[0], &begin) ||
        !absl::SimpleAtoi(words[1], &end)) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "line %d of the spans is \"%s\"; it must be two numbers, BEGIN END", number,
          line));
    }
    spans.emplace_back();
    spans.back().set_begin(begin);
    spans.back().set_end(end);
  }
  return spans;
}

}  // namespace quire::cli

#include "client/cli/word_wrap.h"

#include <algorithm>
#include <utility>

#include "client/cli/utf8.h"

namespace quire::cli {

std::string WordWrap::Add(std::string_view text) {
  std::string out;
  while (!text.empty()) {
    const size_t size = std::max<size_t>(Utf8CharacterSize(text), 1);
    AddCharacter(text.substr(0, size), out);
    text.remove_prefix(size);
  }
  return out;
}

std::string WordWrap::Flush() {
  std::string out;
  PutWord(out);
  out += std::exchange(spaces_, "");
  return out;
}

void WordWrap::AddCharacter(std::string_view character, std::string& out) {
  if (character == "\n") {
    PutWord(out);
    spaces_.clear();
    out += character;
    column_ = 0;
    return;
  }
  if (character == " " || character == "\t") {
    PutWord(out);
    spaces_ += character;
    return;
  }
  const int columns = Utf8Columns(character);
  // Before a wide character the line may break, and nothing that is longer than a line is
  // held.
  if (columns == 2 || word_columns_ + columns > columns_) PutWord(out);
  word_ += character;
  word_columns_ += columns;
}

void WordWrap::PutWord(std::string& out) {
  if (word_.empty()) return;
  const int spaces = static_cast<int>(spaces_.size());
  if (column_ > 0 && column_ + spaces + word_columns_ > columns_) {
    out += '\n';
    column_ = 0;
  } else {
    out += spaces_;
    column_ += spaces;
  }
  out += word_;
  column_ += word_columns_;
  spaces_.clear();
  word_.clear();
  word_columns_ = 0;
}

}  // namespace quire::cli

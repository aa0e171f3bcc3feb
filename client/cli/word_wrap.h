#pragma once

#include <string>
#include <string_view>

namespace quire::cli {

// Breaks streamed prose between words, so that a terminal does not break it within them.
// A word is held back until it is known whether it fits; wide characters, which are
// written without spaces, are words of their own. One thread.
class WordWrap {
 public:
  explicit WordWrap(int columns) : columns_(columns) {}

  // More text, UTF-8 in whole characters; returns what can be shown now.
  std::string Add(std::string_view text);
  // What was held back.
  std::string Flush();

 private:
  void AddCharacter(std::string_view character, std::string& out);
  // Puts the held word out, on a new line if it would pass the edge.
  void PutWord(std::string& out);

  const int columns_;
  int column_ = 0;
  std::string spaces_;  // before the word
  std::string word_;
  int word_columns_ = 0;
};

}  // namespace quire::cli

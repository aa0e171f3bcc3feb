#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "core/base/types.h"
#include "core/tokenizer/tokenizer.h"

namespace quire {

// Turns a stream of tokens into text that never ends inside a UTF-8 character.
// Not thread-safe; one per stream. The tokenizer must outlive it.
class StreamDecoder {
 public:
  explicit StreamDecoder(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {}
  std::string Push(TokenId token);  // possibly empty: bytes are held back
  std::string Finish();             // held bytes, invalid ones replaced by U+FFFD

 private:
  const Tokenizer& tokenizer_;
  std::string pending_;
};

// Finds stop strings in a stream of text pieces. Text that might be the start of a stop
// string is held back. Not thread-safe; one per stream.
class StopMatcher {
 public:
  explicit StopMatcher(std::vector<std::string> stops) : stops_(std::move(stops)) {}
  struct Output {
    std::string text;  // safe to show; ends before the stop string
    bool stopped = false;
    std::string stop;  // which one, when stopped
  };
  Output Push(std::string_view piece);  // REQUIRES: not stopped before
  std::string Finish();                 // text held back

 private:
  std::vector<std::string> stops_;
  std::string pending_;
};

}  // namespace quire

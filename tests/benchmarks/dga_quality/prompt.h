#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "core/tokenizer/tokenizer.h"
#include "core/weights/model_files.h"

namespace quire::quality {

struct PromptOptions {
  int64_t tokens = 0;  // of the whole prompt, at most
  int facts = 16;
  uint64_t seed = 1;
  double start = 0;  // where in the text to begin, as a share of it
};

// A stretch of a book with facts hidden in it, and then the questions about them, each
// with its answer: in the model's chat form if it has one, else as plain lines. All is
// fed, none is generated: a fact is found if every digit is the most probable next token.
struct Prompt {
  std::vector<TokenId> tokens;
  int64_t text_end = 0;                       // the questions begin there
  std::vector<std::vector<int64_t>> answers;  // positions of each answer's digits
};

// kInvalidArgument: the text is too short from `start` on, or the form does not fit.
absl::StatusOr<Prompt> HideFacts(const ModelFiles& files, const Tokenizer& tokenizer,
                                 std::string_view text, const PromptOptions& options);

// The same stretch and facts with one question at its end, for each fact: what is read
// once, and how each question goes on until its answer is to be generated.
struct Questions {
  struct Question {
    std::string thing, code;  // "blue lantern", "12345": in the answer, if it is found
    std::vector<TokenId> tokens;  // after the text, never empty
  };
  std::vector<TokenId> text;
  std::vector<Question> questions;
};
// options.tokens: of the text and the longest question. Errors as above.
absl::StatusOr<Questions> AskOneByOne(const ModelFiles& files, const Tokenizer& tokenizer,
                                      std::string_view text,
                                      const PromptOptions& options);

}  // namespace quire::quality

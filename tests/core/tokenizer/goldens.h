#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/tokenizer/tokenizer.h"
#include "nlohmann/json.hpp"

namespace quire::testing {

struct NastyText {
  std::string name;
  std::string text;
};

// tests/golden/tokenizer/nasty_texts.json.
std::vector<NastyText> NastyTexts();

// Those joined several times over: some 300 KB, long enough to be cut into pieces.
std::string LongText();

// A number that stands for a list of ids; the goldens have it (in decimal) for
// LongText().
uint64_t Digest(const std::vector<TokenId>& ids);

// A JSON file of tests/golden/tokenizer; fails the test if it cannot be read.
nlohmann::json GoldenJson(const std::string& file);

// The tokenizers that the goldens cover: "quire-135m" and "quire-19m" of models/, and
// "llama2_like", "llama3_like" and "qwen_like" of tests/golden/tokenizer.
const std::vector<std::string>& TokenizerNames();

// One of them, loaded once.
const Tokenizer& NamedTokenizer(const std::string& name);

// What Encode() gives; fails the test if it fails. A value, so that loops may run over
// it.
std::vector<TokenId> Ids(const Tokenizer& tokenizer, const std::string& text,
                         bool add_special, bool parse_special);

}  // namespace quire::testing

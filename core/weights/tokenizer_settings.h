#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace quire {

// What a chat needs of a Hugging Face tokenizer_config.json. Empty: the model has none.
struct TokenizerSettings {
  std::string chat_template;
  std::string bos_token;
  std::string eos_token;
};

// chat_template may be a string or a list of named ones, of which "default" is taken;
// tokens may be strings or objects with "content". kInvalidArgument names the field.
absl::StatusOr<TokenizerSettings> ParseTokenizerSettings(std::string_view json);

}  // namespace quire

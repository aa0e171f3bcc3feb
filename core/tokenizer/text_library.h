#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "core/tokenizer/ffi/quire_text.h"

namespace quire::internal {

inline QuireTextSlice ToSlice(std::string_view text) {
  return {text.data(), text.size()};
}

// Copies and frees bytes that the text library owns.
std::string TakeText(QuireTextBytes bytes);

// The status of a call that returned `code` (not QUIRE_TEXT_OK); frees `error`.
// kInvalidArgument for bad input, kInternal for a panic inside the library.
absl::Status TakeError(int32_t code, QuireTextBytes error);

}  // namespace quire::internal

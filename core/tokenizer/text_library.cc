#include "core/tokenizer/text_library.h"

namespace quire::internal {

std::string TakeText(QuireTextBytes bytes) {
  std::string text(bytes.data, bytes.size);
  quire_text_bytes_free(bytes);
  return text;
}

absl::Status TakeError(int32_t code, QuireTextBytes error) {
  const std::string message = TakeText(error);
  return code == QUIRE_TEXT_INVALID ? absl::InvalidArgumentError(message)
                                    : absl::InternalError(message);
}

}  // namespace quire::internal

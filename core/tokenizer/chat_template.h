#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace quire {

struct ChatMessage {
  std::string role;  // "system", "user", "assistant", or what the template knows
  std::string content;
};

// A Hugging Face chat template (Jinja, rendered by minijinja as transformers renders it:
// trim_blocks, lstrip_blocks, Python string methods, raise_exception, strftime_now).
// A template may run 10 million instructions and write 64 MiB; it comes with its model,
// and is trusted with the memory that it uses on the way. Immutable; safe to use
// concurrently.
class ChatTemplate {
 public:
  // kInvalidArgument with the position of a syntax error; the source is over 1 MiB.
  static absl::StatusOr<ChatTemplate> Parse(std::string_view source,
                                            std::string bos_token, std::string eos_token);
  ChatTemplate(ChatTemplate&&) noexcept;
  ChatTemplate& operator=(ChatTemplate&&) noexcept;
  ~ChatTemplate();

  // kInvalidArgument: the template raised an exception (its message), rendering failed or
  // hit a limit, or a message is not UTF-8.
  absl::StatusOr<std::string> Render(absl::Span<const ChatMessage> messages,
                                     bool add_generation_prompt) const;

 private:
  struct Rep;
  explicit ChatTemplate(std::unique_ptr<const Rep> rep);
  std::unique_ptr<const Rep> rep_;
};

}  // namespace quire

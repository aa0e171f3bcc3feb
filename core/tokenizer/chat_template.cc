#include "core/tokenizer/chat_template.h"

#include <utility>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "core/tokenizer/text_library.h"

namespace quire {
namespace {

struct FreeTemplate {
  void operator()(QuireTemplate* chat_template) const {
    quire_template_free(chat_template);
  }
};

std::vector<QuireChatMessage> ToSlices(absl::Span<const ChatMessage> messages) {
  std::vector<QuireChatMessage> slices;
  slices.reserve(messages.size());
  for (const ChatMessage& message : messages) {
    slices.push_back(
        {internal::ToSlice(message.role), internal::ToSlice(message.content)});
  }
  return slices;
}

}  // namespace

struct ChatTemplate::Rep {
  std::unique_ptr<QuireTemplate, FreeTemplate> chat_template;
  std::string bos_token;
  std::string eos_token;
};

ChatTemplate::ChatTemplate(std::unique_ptr<const Rep> rep) : rep_(std::move(rep)) {}
ChatTemplate::ChatTemplate(ChatTemplate&&) noexcept = default;
ChatTemplate& ChatTemplate::operator=(ChatTemplate&&) noexcept = default;
ChatTemplate::~ChatTemplate() = default;

absl::StatusOr<ChatTemplate> ChatTemplate::Parse(std::string_view source,
                                                 std::string bos_token,
                                                 std::string eos_token) {
  QuireTemplate* chat_template = nullptr;
  QuireTextBytes error;
  const int32_t code =
      quire_template_parse(internal::ToSlice(source), &chat_template, &error);
  if (code != QUIRE_TEXT_OK) return internal::TakeError(code, error);
  auto rep = std::make_unique<Rep>();
  rep->chat_template.reset(chat_template);
  rep->bos_token = std::move(bos_token);
  rep->eos_token = std::move(eos_token);
  return ChatTemplate(std::move(rep));
}

absl::StatusOr<std::string> ChatTemplate::Render(absl::Span<const ChatMessage> messages,
                                                 bool add_generation_prompt) const {
  const std::vector<QuireChatMessage> slices = ToSlices(messages);
  const QuireTemplateInput input = {
      .messages = slices.data(),
      .message_count = slices.size(),
      .bos_token = internal::ToSlice(rep_->bos_token),
      .eos_token = internal::ToSlice(rep_->eos_token),
      .add_generation_prompt = add_generation_prompt,
      .now_unix_seconds = absl::ToUnixSeconds(absl::Now()),
  };
  QuireTextBytes text;
  QuireTextBytes error;
  const int32_t code =
      quire_template_render(rep_->chat_template.get(), &input, &text, &error);
  if (code != QUIRE_TEXT_OK) return internal::TakeError(code, error);
  return internal::TakeText(text);
}

}  // namespace quire

#include "core/weights/tokenizer_settings.h"

#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/config/json_reader.h"

namespace quire {
namespace {

using nlohmann::json;

constexpr int64_t kMaxBytes = 16 << 20;
constexpr size_t kMaxTemplates = 64;

std::string ReadToken(JsonReader& reader, const char* name) {
  const json* value = reader.Find(name);
  if (value == nullptr || !value->is_object()) return reader.String(name, "");
  JsonReader token(*value, absl::StrCat(reader.where(), ": ", name));
  std::string content = token.String("content", std::nullopt);
  reader.Adopt(token.status());
  return content;
}

std::string ReadNamedTemplate(JsonReader& reader, const json& list) {
  if (list.size() > kMaxTemplates) {
    reader.Fail(absl::StatusCode::kInvalidArgument,
                absl::StrCat("chat_template has ", list.size(), " entries; at most ",
                             kMaxTemplates, " are allowed"));
    return "";
  }
  const std::string where = absl::StrCat(reader.where(), ": chat_template");
  std::string found;
  for (const json& item : list) {
    if (!item.is_object()) {
      reader.Fail(absl::StatusCode::kInvalidArgument,
                  absl::StrCat("chat_template has ", ShowJson(item),
                               "; each must be {\"name\": ..., \"template\": ...}"));
      return "";
    }
    JsonReader named(item, where);
    std::string text = named.String("template", std::nullopt);
    if (named.String("name", std::nullopt) == "default") found = std::move(text);
    reader.Adopt(named.status());
  }
  return found;
}

}  // namespace

absl::StatusOr<TokenizerSettings> ParseTokenizerSettings(std::string_view text) {
  QUIRE_ASSIGN_OR_RETURN(const json object,
                         ParseJsonObject(text, "tokenizer_config.json", kMaxBytes));
  JsonReader reader(object, "tokenizer_config.json");
  TokenizerSettings settings;
  settings.bos_token = ReadToken(reader, "bos_token");
  settings.eos_token = ReadToken(reader, "eos_token");
  const json* chat = reader.Find("chat_template");
  settings.chat_template = chat != nullptr && chat->is_array()
                               ? ReadNamedTemplate(reader, *chat)
                               : reader.String("chat_template", "");
  QUIRE_RETURN_IF_ERROR(reader.status());
  return settings;
}

}  // namespace quire

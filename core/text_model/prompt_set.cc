#include "core/text_model/prompt_set.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/config/json_reader.h"

namespace quire {
namespace {

constexpr int64_t kMaxPromptsBytes = 1 << 20;
constexpr int32_t kMaxNewTokens = 1 << 20;
constexpr std::string_view kWordsField = "{words}";

// For models that know no prompts of ours: plain requests, understood by any chat model.
constexpr std::string_view kSummarize = "Summarize the document.";
constexpr std::string_view kWords = " Use about {words} words.";
constexpr int32_t kWordsStep = 10;

absl::StatusOr<SamplingParams> ReadSampling(const nlohmann::json& object) {
  JsonReader reader(object, "prompts.json: sampling");
  reader.RefuseUnknown({"temperature", "top_k", "top_p", "min_p", "repetition_penalty",
                        "presence_penalty", "frequency_penalty", "no_repeat_ngram"});
  constexpr double kAny = 1e9;  // the limits are SamplingParams::Validate's to know
  SamplingParams sampling;
  const auto number = [&](std::string_view name, float& field) {
    field = static_cast<float>(reader.Number(name, field, -kAny, kAny));
  };
  number("temperature", sampling.temperature);
  number("top_p", sampling.top_p);
  number("min_p", sampling.min_p);
  number("repetition_penalty", sampling.repetition_penalty);
  number("presence_penalty", sampling.presence_penalty);
  number("frequency_penalty", sampling.frequency_penalty);
  sampling.top_k = static_cast<int32_t>(reader.Int("top_k", 0, 0, INT32_MAX));
  sampling.no_repeat_ngram =
      static_cast<int32_t>(reader.Int("no_repeat_ngram", 0, 0, INT32_MAX));
  QUIRE_RETURN_IF_ERROR(reader.status());
  if (absl::Status status = sampling.Validate(); !status.ok()) {
    return absl::InvalidArgumentError(absl::StrCat("prompts.json: ", status.message()));
  }
  return sampling;
}

}  // namespace

absl::StatusOr<PromptSet> PromptSet::FromJson(std::string_view json) {
  QUIRE_ASSIGN_OR_RETURN(const nlohmann::json object,
                         ParseJsonObject(json, "prompts.json", kMaxPromptsBytes));
  JsonReader reader(object, "prompts.json");
  reader.RefuseUnknown({"prefix", "between", "suffix", "summarize", "combine", "words",
                        "words_step", "max_new_tokens", "sampling"});
  PromptSet set;
  set.prefix_ = reader.String("prefix", std::nullopt);
  set.between_ = reader.String("between", "\n\n");
  set.suffix_ = reader.String("suffix", std::nullopt);
  set.summarize_ = reader.String("summarize", std::nullopt);
  set.combine_ = reader.String("combine", set.summarize_);
  set.words_ = reader.String("words", "");
  set.words_step_ = static_cast<int32_t>(reader.Int("words_step", 1, 1, 1000));
  set.max_new_tokens_ = static_cast<int32_t>(
      reader.Int("max_new_tokens", set.max_new_tokens_, 1, kMaxNewTokens));
  if (!set.words_.empty() && set.words_.find(kWordsField) == std::string::npos) {
    reader.Fail(absl::StatusCode::kInvalidArgument,
                absl::StrCat("words is \"", set.words_, "\"; it must contain {words}"));
  }
  const nlohmann::json* sampling = reader.Object("sampling");
  QUIRE_RETURN_IF_ERROR(reader.status());
  if (sampling != nullptr) {
    QUIRE_ASSIGN_OR_RETURN(set.sampling_, ReadSampling(*sampling));
  }
  return set;
}

absl::StatusOr<PromptSet> PromptSet::FromChatTemplate(const ChatTemplate& chat_template) {
  // Nothing a template would trim, escape or look for.
  constexpr std::string_view kMarker = "quireuserscontent";
  const ChatMessage message{"user", std::string(kMarker)};
  QUIRE_ASSIGN_OR_RETURN(
      const std::string rendered,
      chat_template.Render({&message, 1}, /*add_generation_prompt=*/true));
  const size_t at = rendered.find(kMarker);
  if (at == std::string::npos || rendered.find(kMarker, at + 1) != std::string::npos) {
    return absl::InvalidArgumentError(
        "the chat template does not repeat the user's message as it is, once");
  }
  PromptSet set;
  set.prefix_ = rendered.substr(0, at);
  set.between_ = "\n\n";
  set.suffix_ = rendered.substr(at + kMarker.size());
  set.summarize_ = set.combine_ = std::string(kSummarize);
  set.words_ = std::string(kWords);
  set.words_step_ = kWordsStep;
  return set;
}

std::string PromptSet::Instruction(std::string_view question, int32_t target_words,
                                   bool combine) const {
  std::string instruction = combine ? combine_ : summarize_;
  if (!question.empty()) instruction = std::string(question);
  if (target_words <= 0 || words_.empty()) return instruction;
  const int32_t steps = (target_words + words_step_ / 2) / words_step_;
  std::string words = words_;
  words.replace(words.find(kWordsField), kWordsField.size(),
                absl::StrCat(std::max(1, steps) * words_step_));
  return instruction + words;
}

absl::StatusOr<std::vector<TokenId>> PromptSet::Build(
    const Tokenizer& tokenizer, absl::Span<const TokenId> document,
    std::string_view instruction) const {
  const auto encode = [&](std::string_view text, bool own) {
    return tokenizer.Encode(text, /*add_special=*/false, /*parse_special=*/own);
  };
  QUIRE_ASSIGN_OR_RETURN(std::vector<TokenId> prompt, encode(prefix_, true));
  prompt.insert(prompt.end(), document.begin(), document.end());
  const auto append = [&](const std::vector<TokenId>& ids) {
    prompt.insert(prompt.end(), ids.begin(), ids.end());
  };
  QUIRE_ASSIGN_OR_RETURN(const std::vector<TokenId> between, encode(between_, true));
  QUIRE_ASSIGN_OR_RETURN(const std::vector<TokenId> plain, encode(between_, false));
  if (between == plain) {
    // Line breaks before a word tokenise otherwise than alone: encode the two as one
    // text.
    QUIRE_ASSIGN_OR_RETURN(
        const std::vector<TokenId> joined,
        encode(absl::StrCat(between_, std::string(instruction)), false));
    append(joined);
  } else {
    append(between);
    QUIRE_ASSIGN_OR_RETURN(const std::vector<TokenId> ids, encode(instruction, false));
    append(ids);
  }
  QUIRE_ASSIGN_OR_RETURN(const std::vector<TokenId> suffix, encode(suffix_, true));
  append(suffix);
  return prompt;
}

}  // namespace quire

#include "core/text_model/text_model.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/config/json_reader.h"

namespace quire {
namespace {

constexpr int64_t kMaxGenerationConfigBytes = 1 << 20;
constexpr int64_t kMaxEosTokens = 64;
// What transformers samples with when generation_config.json says nothing else.
constexpr int32_t kHuggingFaceTopK = 50;

absl::StatusOr<std::vector<TokenId>> StopTokens(const TextModel& model,
                                                const std::string& eos_token) {
  std::vector<TokenId> stops = model.config.eos_tokens;
  stops.insert(stops.end(), model.defaults.stop_tokens.begin(),
               model.defaults.stop_tokens.end());
  if (!eos_token.empty()) {
    const TokenId id = model.tokenizer.TokenToId(eos_token);
    if (id >= 0) stops.push_back(id);
  }
  std::sort(stops.begin(), stops.end());
  stops.erase(std::unique(stops.begin(), stops.end()), stops.end());
  if (!stops.empty() && stops.back() >= model.config.vocab_size) {
    return absl::InvalidArgumentError(absl::StrCat("eos_token_id is ", stops.back(),
                                                   "; it must be in [0, ",
                                                   model.config.vocab_size, ")"));
  }
  return stops;
}

absl::Status CheckVocabulary(const Tokenizer& tokenizer, const ModelConfig& config) {
  if (tokenizer.vocab_size() <= config.vocab_size) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("tokenizer.json has ", tokenizer.vocab_size(),
                   " tokens; config.json's vocab_size allows ", config.vocab_size));
}

}  // namespace

absl::StatusOr<GenerationDefaults> GenerationDefaults::FromJson(std::string_view json) {
  QUIRE_ASSIGN_OR_RETURN(
      const nlohmann::json object,
      ParseJsonObject(json, "generation_config.json", kMaxGenerationConfigBytes));
  JsonReader reader(object, "generation_config.json");
  GenerationDefaults defaults;
  SamplingParams& sampling = defaults.sampling;
  const bool sample = reader.Bool("do_sample", false);
  const double temperature = reader.Number("temperature", 1.0, 0.0, 100.0);
  const int64_t top_k = reader.Int("top_k", kHuggingFaceTopK, 0, INT32_MAX);
  const double top_p = reader.Number("top_p", 1.0, 1e-6, 1.0);
  const double min_p = reader.Number("min_p", 0.0, 0.0, 1.0);
  if (sample) {
    sampling.temperature = static_cast<float>(temperature);
    sampling.top_k = static_cast<int32_t>(top_k);
    sampling.top_p = static_cast<float>(top_p);
    sampling.min_p = static_cast<float>(min_p);
  }
  sampling.repetition_penalty =
      static_cast<float>(reader.Number("repetition_penalty", 1.0, 0.01, 100.0));
  sampling.no_repeat_ngram =
      static_cast<int32_t>(reader.Int("no_repeat_ngram_size", 0, 0, INT32_MAX));
  defaults.max_new_tokens = static_cast<int32_t>(
      reader.Int("max_new_tokens", defaults.max_new_tokens, 1, INT32_MAX));
  for (int64_t id : reader.IntList("eos_token_id", kMaxEosTokens, 0, INT32_MAX)) {
    defaults.stop_tokens.push_back(static_cast<TokenId>(id));
  }
  QUIRE_RETURN_IF_ERROR(reader.status());
  QUIRE_RETURN_IF_ERROR(sampling.Validate());
  return defaults;
}

absl::StatusOr<TextModel> TextModel::FromFiles(const ModelFiles& files) {
  QUIRE_ASSIGN_OR_RETURN(Tokenizer tokenizer, Tokenizer::Load(files.tokenizer_path));
  QUIRE_RETURN_IF_ERROR(CheckVocabulary(tokenizer, files.config));
  TextModel model{
      .name = files.name, .config = files.config, .tokenizer = std::move(tokenizer)};
  if (!files.chat_template.empty()) {
    QUIRE_ASSIGN_OR_RETURN(
        model.chat_template,
        ChatTemplate::Parse(files.chat_template, files.bos_token, files.eos_token));
  }
  if (files.prompts_json.has_value()) {
    QUIRE_ASSIGN_OR_RETURN(model.prompts, PromptSet::FromJson(*files.prompts_json));
  } else if (model.chat_template.has_value()) {
    absl::StatusOr<PromptSet> prompts = PromptSet::FromChatTemplate(*model.chat_template);
    if (prompts.ok()) model.prompts = *std::move(prompts);
  }
  if (files.generation_config_json.has_value()) {
    QUIRE_ASSIGN_OR_RETURN(model.defaults,
                           GenerationDefaults::FromJson(*files.generation_config_json));
  }
  QUIRE_ASSIGN_OR_RETURN(model.stop_tokens, StopTokens(model, files.eos_token));
  return model;
}

}  // namespace quire

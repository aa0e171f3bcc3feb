#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "core/config/model_config.h"
#include "core/engine/engine.h"
#include "core/sampling/sampler.h"
#include "core/text_model/prompt_set.h"
#include "core/tokenizer/chat_template.h"
#include "core/tokenizer/tokenizer.h"
#include "core/weights/model_files.h"

namespace quire {

// What generation does unless the request says otherwise (generation_config.json).
struct GenerationDefaults {
  SamplingParams sampling;
  int32_t max_new_tokens = 512;
  std::vector<TokenId> stop_tokens;  // eos_token_id, one or a list
  // kInvalidArgument names the field. Understands Hugging Face's do_sample, temperature,
  // top_k, top_p, min_p, repetition_penalty, no_repeat_ngram_size, max_new_tokens and
  // eos_token_id; others are ignored. Without do_sample the most probable token is taken;
  // with it, what is not said is what transformers takes (temperature 1, top_k 50).
  // Unlike there, the penalties look at the generated part only.
  static absl::StatusOr<GenerationDefaults> FromJson(std::string_view json);
};

// One model that reads and writes text: the engine with everything of the model's folder
// that turns text into tokens and back. Immutable once made; safe to use concurrently.
struct TextModel {
  std::string name;
  ModelConfig config;
  Tokenizer tokenizer;
  std::optional<ChatTemplate> chat_template;
  // From prompts.json, else made from the chat template; none if there is neither, or if
  // the template refuses a lone user message or changes its text.
  std::optional<PromptSet> prompts;
  GenerationDefaults defaults;
  // The model's own end tokens: those of config.json, generation_config.json and the
  // tokenizer's end token; ascending.
  std::vector<TokenId> stop_tokens;
  std::unique_ptr<Engine> engine;

  // Tokenizer, template, prompts and defaults of a folder; the engine is the caller's to
  // set. kNotFound: no tokenizer; kInvalidArgument names the file and the field.
  static absl::StatusOr<TextModel> FromFiles(const ModelFiles& files);

  int32_t context_tokens() const { return config.max_positions; }
  bool instruction_tuned() const { return prompts.has_value(); }
};

}  // namespace quire

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
  // kInvalidArgument names the field. Understands Hugging Face's do_sample, temperature, top_k,
  // top_p, min_p, repetition_penalty, no_repeat_ngram_size, max_new_tokens; others are ignored.
  static absl::StatusOr<GenerationDefaults> FromJson(std::string_view json);
};

// One model that reads and writes text: the engine with everything of the model's folder that
// turns text into tokens and back. Immutable once made; safe to use concurrently.
struct TextModel {
  std::string name;
  ModelConfig config;
  Tokenizer tokenizer;
  std::optional<ChatTemplate> chat_template;
  std::optional<PromptSet> prompts;    // from prompts.json, else made from the chat template
  GenerationDefaults defaults;
  std::vector<TokenId> stop_tokens;    // the model's own end tokens
  std::unique_ptr<Engine> engine;

  // Tokenizer, template, prompts and defaults of a folder; the engine is the caller's to set.
  static absl::StatusOr<TextModel> FromFiles(const ModelFiles& files);

  int32_t context_tokens() const { return config.max_positions; }
  bool instruction_tuned() const { return prompts.has_value(); }
};

}  // namespace quire

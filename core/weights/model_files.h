#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "core/config/model_config.h"
#include "core/weights/weight_source.h"

namespace quire {

// What a model folder holds, read and checked, nothing computed. Layout of a folder:
//   config.json, tokenizer.json                      required
//   model.safetensors | model.safetensors.index.json + shards | *.gguf | base.json
//   weights tokenizer_config.json (chat template), generation_config.json, prompts.json
//   optional adapter_config.json + adapter_model.safetensors  optional PEFT LoRA, merged
//   at load
// base.json {"file": NAME, "sha256": HEX}: the base weights are a file that
// deploy/setup.sh downloads; it is looked for beside base.json, then in $QUIRE_BASE_DIR.
struct ModelFiles {
  std::string name;  // the folder's name
  std::string path;
  ModelConfig config;
  std::shared_ptr<const WeightSource> weights;
  std::string tokenizer_path;
  std::string chat_template;                // "" if the model has none
  std::string bos_token, eos_token;         // as the chat template wants them; "" if none
  std::optional<std::string> prompts_json;  // prompts.json's text
  std::optional<std::string> generation_config_json;  // generation_config.json's text
  int64_t weight_file_bytes = 0;
};

// kNotFound: a file or shard is missing, named. kInvalidArgument: a file is malformed or
// an adapter does not fit, named. kUnimplemented: an unsupported type or architecture,
// named.
absl::StatusOr<ModelFiles> OpenModelFiles(const std::string& folder);

}  // namespace quire

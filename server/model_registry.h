#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "core/text_model/text_model.h"
#include "server/observability/activity.h"

namespace quire::server {

// A loaded model and what GetModel tells of it.
struct ServedModel {
  // What the engine tells goes through it; null: nobody keeps it. Outlives the engine.
  std::unique_ptr<Activity> activity;
  TextModel text;
  std::vector<TokenId> begin_tokens;  // what the tokenizer puts before a text
  int64_t parameters = 0;
  std::string compute_type;  // "float32", "bfloat16"
  std::string device;        // "cpu", "cuda:0"
  std::string device_note;   // its name, or why it is no GPU
  int64_t weight_bytes = 0;
  int64_t kv_cache_bytes = 0;
  int64_t kv_cache_tokens = 0;
  int32_t refined_pays_from = 0;  // AttentionOptions::refined_pays_from of its runner
  EngineOptions limits;           // that the engine was started with
};

// "llama" and so on, as the protocol names architectures.
absl::string_view ArchitectureName(Architecture architecture);

// Weights of a decoder of this shape, embeddings counted once if tied.
int64_t CountParameters(const ModelConfig& config);

// The tokens that the tokenizer's post-processor puts before a text, such as a begin
// token. (What it puts after one is of no use to a text that goes on.)
absl::StatusOr<std::vector<TokenId>> BeginTokens(const Tokenizer& tokenizer);

// The models of this server, the default first. Immutable; safe to use concurrently.
class ModelRegistry {
 public:
  // kInvalidArgument: no model, or two of one name.
  static absl::StatusOr<std::unique_ptr<const ModelRegistry>> Make(
      std::vector<std::unique_ptr<ServedModel>> models);

  // "" is the default model. kNotFound lists the known names.
  absl::StatusOr<const ServedModel*> Find(absl::string_view name) const;

  absl::Span<const std::unique_ptr<ServedModel>> models() const { return models_; }

 private:
  explicit ModelRegistry(std::vector<std::unique_ptr<ServedModel>> models)
      : models_(std::move(models)) {}
  std::vector<std::unique_ptr<ServedModel>> models_;
};

}  // namespace quire::server

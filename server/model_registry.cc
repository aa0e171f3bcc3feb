#include "server/model_registry.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "core/base/status_macros.h"
#include "server/rpc/status.h"

namespace quire::server {

absl::string_view ArchitectureName(Architecture architecture) {
  switch (architecture) {
    case Architecture::kLlama:
      return "llama";
    case Architecture::kMistral:
      return "mistral";
    case Architecture::kQwen2:
      return "qwen2";
    case Architecture::kQwen3:
      return "qwen3";
  }
  return "";
}

int64_t CountParameters(const ModelConfig& c) {
  const int64_t hidden = c.hidden_size;
  const int64_t q = int64_t{c.num_heads} * c.head_dim;
  const int64_t kv = int64_t{c.num_kv_heads} * c.head_dim;
  int64_t layer = hidden * (q + 2 * kv) + q * hidden;      // q, k, v, o
  layer += 3 * hidden * c.intermediate_size + 2 * hidden;  // gate, up, down; two norms
  if (c.qkv_bias || c.attention_bias) layer += q + 2 * kv;
  if (c.attention_bias) layer += hidden;
  if (c.mlp_bias) layer += 2 * int64_t{c.intermediate_size} + hidden;
  if (c.qk_norm) layer += 2 * int64_t{c.head_dim};
  const int64_t embeddings = hidden * c.vocab_size * (c.tie_embeddings ? 1 : 2);
  return embeddings + c.num_layers * layer + hidden;
}

absl::StatusOr<std::vector<TokenId>> BeginTokens(const Tokenizer& tokenizer) {
  QUIRE_ASSIGN_OR_RETURN(const auto plain, tokenizer.Encode("a", false, false));
  QUIRE_ASSIGN_OR_RETURN(const auto special, tokenizer.Encode("a", true, false));
  const auto at = std::search(special.begin(), special.end(), plain.begin(), plain.end());
  return std::vector<TokenId>(special.begin(),
                              at == special.end() ? special.begin() : at);
}

absl::StatusOr<std::unique_ptr<const ModelRegistry>> ModelRegistry::Make(
    std::vector<std::unique_ptr<ServedModel>> models) {
  if (models.empty()) return absl::InvalidArgumentError("model is not set");
  for (size_t i = 0; i < models.size(); ++i) {
    for (size_t j = 0; j < i; ++j) {
      if (models[i]->text.name != models[j]->text.name) continue;
      return absl::InvalidArgumentError(absl::StrCat("model names two folders called ",
                                                     Quoted(models[i]->text.name),
                                                     "; the names must differ"));
    }
  }
  return std::unique_ptr<const ModelRegistry>(new ModelRegistry(std::move(models)));
}

absl::StatusOr<const ServedModel*> ModelRegistry::Find(absl::string_view name) const {
  if (name.empty()) return models_.front().get();
  for (const auto& model : models_) {
    if (model->text.name == name) return model.get();
  }
  const std::string known =
      absl::StrJoin(models_, ", ", [](std::string* out, const auto& model) {
        absl::StrAppend(out, Quoted(model->text.name));
      });
  return WithReason(absl::NotFoundError(absl::StrCat("model is ", Quoted(name),
                                                     "; this server has ", known)),
                    "UNKNOWN_MODEL");
}

}  // namespace quire::server

#include "core/weights/lora.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "core/base/status_macros.h"
#include "core/base/to_absl.h"
#include "core/config/json_reader.h"

namespace quire {
namespace {

using nlohmann::json;

constexpr int64_t kMaxAdapterConfigBytes = 1 << 20;
constexpr int64_t kMaxRank = 4096;
constexpr double kMaxAlpha = 1e6;
constexpr size_t kMaxTargets = 65536;
constexpr absl::string_view kPrefix = "base_model.model.";

struct Settings {
  int64_t rank = 0;
  float scale = 0;
  bool every_layer = true;
  // Modules that the file must update, as PEFT matches them: a whole name or the end of
  // one after a dot. Not set: a pattern, so whatever the file has is taken.
  std::optional<std::vector<std::string>> targets;
};

// Values of adapter_config.json that would change the arithmetic in ways not done here.
void RefuseUnsupported(JsonReader& reader) {
  const auto refuse = [&](const char* name, const json& value) {
    reader.Fail(absl::StatusCode::kUnimplemented,
                absl::StrCat(name, " is ", ShowJson(value), ", which is not supported"));
  };
  const std::string type = reader.String("peft_type", std::nullopt);
  if (type != "LORA") refuse("peft_type", json(type));
  const std::string bias = reader.String("bias", "none");
  if (bias != "none") refuse("bias", json(bias));
  for (const char* name :
       {"use_dora", "fan_in_fan_out", "lora_bias", "use_qalora", "modules_to_save",
        "rank_pattern", "alpha_pattern", "layer_replication", "trainable_token_indices",
        "target_parameters"}) {
    const json* value = reader.Find(name);
    const bool off = value == nullptr || *value == json(false) ||
                     (value->is_structured() && value->empty());
    if (!off) refuse(name, *value);
  }
}

absl::StatusOr<Settings> ReadSettings(const json& object) {
  JsonReader reader(object, "adapter_config.json");
  RefuseUnsupported(reader);
  Settings settings;
  settings.rank = reader.Int("r", std::nullopt, 1, kMaxRank);
  // PEFT's default alpha is 8.
  const double alpha = reader.Number("lora_alpha", 8, 0, kMaxAlpha);
  const auto rank = static_cast<double>(settings.rank);
  // Rank-stabilised: Kalajdzievski, arXiv 2312.03732.
  const double divisor = reader.Bool("use_rslora", false) ? std::sqrt(rank) : rank;
  settings.scale = static_cast<float>(alpha / divisor);
  const json* targets = reader.Find("target_modules");
  if (targets != nullptr && !targets->is_string()) {
    settings.targets = reader.StringList("target_modules", kMaxTargets);
  }
  settings.every_layer = reader.Find("layers_to_transform") == nullptr &&
                         reader.Find("exclude_modules") == nullptr;
  QUIRE_RETURN_IF_ERROR(reader.status());
  return settings;
}

// A linear layer that can be adapted.
struct Linear {
  std::string name;  // without ".weight"
  int64_t out = 0;
  int64_t in = 0;
};

std::vector<Linear> LinearLayers(const ModelConfig& model) {
  const int64_t query = int64_t{model.num_heads} * model.head_dim;
  const int64_t key = int64_t{model.num_kv_heads} * model.head_dim;
  const int64_t hidden = model.hidden_size;
  const int64_t inner = model.intermediate_size;
  const std::array<Linear, 7> each = {{{"self_attn.q_proj", query, hidden},
                                       {"self_attn.k_proj", key, hidden},
                                       {"self_attn.v_proj", key, hidden},
                                       {"self_attn.o_proj", hidden, query},
                                       {"mlp.gate_proj", inner, hidden},
                                       {"mlp.up_proj", inner, hidden},
                                       {"mlp.down_proj", hidden, inner}}};
  std::vector<Linear> all;
  for (int32_t layer = 0; layer < model.num_layers; ++layer) {
    for (const Linear& linear : each) {
      all.push_back({absl::StrCat("model.layers.", layer, ".", linear.name), linear.out,
                     linear.in});
    }
  }
  // A tied head shares its matrix with the embedding, which the update must not change.
  if (!model.tie_embeddings) all.push_back({"lm_head", model.vocab_size, hidden});
  return all;
}

bool IsTarget(const Settings& settings, const std::string& name) {
  if (!settings.targets.has_value()) return true;
  return std::any_of(settings.targets->begin(), settings.targets->end(),
                     [&](const std::string& target) {
                       return name == target || absl::EndsWith(name, "." + target);
                     });
}

// Get, with F32, F16 and BF16 only: an adapter is never quantised.
absl::StatusOr<TensorView> GetFactor(const TensorTable& tensors, const std::string& name,
                                     std::array<int64_t, 2> shape) {
  QUIRE_ASSIGN_OR_RETURN(TensorView view, tensors.Get(name, shape));
  if (LayoutOf(view.dtype).values == 1) return view;
  return absl::UnimplementedError(absl::StrCat("tensor ", name, " has type ",
                                               ToAbsl(DTypeName(view.dtype)),
                                               "; an adapter has F32, F16 or BF16"));
}

absl::StatusOr<LoraUpdate> GetUpdate(const TensorTable& tensors, const Linear& linear,
                                     const Settings& settings) {
  LoraUpdate update;
  update.scale = settings.scale;
  const std::string stem = absl::StrCat(kPrefix, linear.name);
  QUIRE_ASSIGN_OR_RETURN(
      update.a, GetFactor(tensors, stem + ".lora_A.weight", {settings.rank, linear.in}));
  QUIRE_ASSIGN_OR_RETURN(
      update.b, GetFactor(tensors, stem + ".lora_B.weight", {linear.out, settings.rank}));
  return update;
}

// The first tensor that belongs to no update: of another layer, module or kind.
absl::Status CheckAllUsed(const TensorTable& tensors, const LoraUpdates& updates) {
  for (const std::string& name : tensors.names()) {
    absl::string_view stem = name;
    const bool factor = absl::ConsumePrefix(&stem, kPrefix) &&
                        (absl::ConsumeSuffix(&stem, ".lora_A.weight") ||
                         absl::ConsumeSuffix(&stem, ".lora_B.weight"));
    if (!factor || updates.count(absl::StrCat(stem, ".weight")) == 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("tensor ", name,
                       " of the adapter fits no linear layer of the model that "
                       "target_modules names"));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<LoraUpdates> ParseLora(std::string_view adapter_config_json,
                                      const TensorTable& tensors,
                                      const ModelConfig& model) {
  QUIRE_ASSIGN_OR_RETURN(const json object,
                         ParseJsonObject(adapter_config_json, "adapter_config.json",
                                         kMaxAdapterConfigBytes));
  QUIRE_ASSIGN_OR_RETURN(const Settings settings, ReadSettings(object));
  LoraUpdates updates;
  for (const Linear& linear : LinearLayers(model)) {
    if (!IsTarget(settings, linear.name)) continue;
    const std::string stem = absl::StrCat(kPrefix, linear.name);
    const bool there =
        tensors.Has(stem + ".lora_A.weight") || tensors.Has(stem + ".lora_B.weight");
    const bool required = settings.every_layer && settings.targets.has_value();
    if (!there && !required) continue;
    QUIRE_ASSIGN_OR_RETURN(updates[linear.name + ".weight"],
                           GetUpdate(tensors, linear, settings));
  }
  QUIRE_RETURN_IF_ERROR(CheckAllUsed(tensors, updates));
  if (!updates.empty()) return updates;
  return absl::InvalidArgumentError("the adapter updates no layer of the model");
}

}  // namespace quire

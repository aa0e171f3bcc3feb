#include "core/config/model_config.h"

#include <algorithm>
#include <array>
#include <optional>

#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/config/json_reader.h"
#include "core/config/rope_reader.h"

namespace quire {
namespace {

using nlohmann::json;

constexpr int64_t kMaxConfigBytes = 1 << 20;
constexpr int32_t kMaxLayers = 1024;
constexpr int32_t kMaxWidth = 1 << 20;
constexpr int32_t kMaxHeads = 1024;
constexpr int32_t kMaxHeadDim = 1024;
constexpr int32_t kMaxVocab = 1 << 22;
constexpr int32_t kMaxPositions = 1 << 24;
constexpr size_t kMaxEosTokens = 64;
constexpr double kMinEps = 1e-12;
constexpr double kMaxEps = 0.1;

// What transformers 5 assumes of a family where config.json says nothing.
struct Family {
  const char* model_type;
  const char* causal_lm;
  Architecture architecture;
  int64_t kv_heads;  // 0: as many as heads
  int64_t head_dim;  // 0: hidden_size / num_attention_heads
  int32_t max_positions;
  int64_t bos_token;  // -1: none
  int64_t eos_token;
};

constexpr std::array<Family, 4> kFamilies = {{
    {"llama", "LlamaForCausalLM", Architecture::kLlama, 0, 0, 2048, 1, 2},
    {"mistral", "MistralForCausalLM", Architecture::kMistral, 8, 0, 131072, 1, 2},
    {"qwen2", "Qwen2ForCausalLM", Architecture::kQwen2, 32, 0, 32768, -1, -1},
    {"qwen3", "Qwen3ForCausalLM", Architecture::kQwen3, 32, 128, 32768, -1, -1},
}};
constexpr int64_t kDefaultWindow = 4096;      // sliding_window of Mistral, Qwen2, Qwen3
constexpr int64_t kDefaultWindowedFrom = 28;  // max_window_layers of Qwen2, Qwen3

absl::Status OutOfRange(absl::string_view field, int64_t value,
                        absl::string_view wanted) {
  return absl::InvalidArgumentError(
      absl::StrCat(field, " is ", value, "; it must be ", wanted));
}

const Family* FindFamily(JsonReader& reader) {
  const std::string type = reader.String("model_type", std::nullopt);
  for (const Family& family : kFamilies) {
    if (type == family.model_type) return &family;
  }
  reader.Fail(absl::StatusCode::kUnimplemented,
              absl::StrCat("model_type is '", type.substr(0, 40),
                           "'; llama, mistral, qwen2 and qwen3 are supported"));
  return nullptr;
}

void RefuseUnsupported(JsonReader& reader, const Family& family) {
  const std::vector<std::string> classes = reader.StringList("architectures", 16);
  if (!classes.empty() && classes[0] != family.causal_lm) {
    reader.Fail(absl::StatusCode::kUnimplemented,
                absl::StrCat("architectures names ", classes[0].substr(0, 60), "; only ",
                             family.causal_lm, " is supported with this model_type"));
  }
  const std::string activation = reader.String("hidden_act", "silu");
  if (activation != "silu" && activation != "swish") {
    reader.Fail(absl::StatusCode::kUnimplemented,
                absl::StrCat("hidden_act is '", activation.substr(0, 40),
                             "'; only silu is supported"));
  }
  if (reader.Find("quantization_config") != nullptr) {
    reader.Fail(absl::StatusCode::kUnimplemented,
                "quantization_config is set; use unquantised safetensors or a GGUF file");
  }
}

int32_t ReadInt(JsonReader& reader, const char* name, std::optional<int64_t> fallback,
                int32_t max) {
  return static_cast<int32_t>(reader.Int(name, fallback, 1, max));
}

void ReadHeads(JsonReader& reader, const Family& family, ModelConfig& config) {
  config.num_heads = ReadInt(reader, "num_attention_heads", std::nullopt, kMaxHeads);
  const bool as_heads =
      family.kv_heads == 0 || reader.IsExplicitNull("num_key_value_heads");
  config.num_kv_heads = ReadInt(reader, "num_key_value_heads",
                                as_heads ? config.num_heads : family.kv_heads, kMaxHeads);
  std::optional<int64_t> head_dim = family.head_dim;
  if (family.head_dim == 0) {
    const bool divides = config.hidden_size % config.num_heads == 0;
    head_dim = divides ? std::optional<int64_t>(config.hidden_size / config.num_heads)
                       : std::nullopt;
  }
  config.head_dim = ReadInt(reader, "head_dim", head_dim, kMaxHeadDim);
}

void ReadSizes(JsonReader& reader, const Family& family, ModelConfig& config) {
  config.num_layers = ReadInt(reader, "num_hidden_layers", std::nullopt, kMaxLayers);
  config.hidden_size = ReadInt(reader, "hidden_size", std::nullopt, kMaxWidth);
  config.intermediate_size =
      ReadInt(reader, "intermediate_size", std::nullopt, kMaxWidth);
  config.vocab_size = ReadInt(reader, "vocab_size", std::nullopt, kMaxVocab);
  ReadHeads(reader, family, config);
  config.max_positions =
      ReadInt(reader, "max_position_embeddings", family.max_positions, kMaxPositions);
  config.rms_norm_eps =
      static_cast<float>(reader.Number("rms_norm_eps", 1e-6, kMinEps, kMaxEps));
}

void ReadSwitches(JsonReader& reader, ModelConfig& config) {
  const Architecture kind = config.architecture;
  config.tie_embeddings = reader.Bool("tie_word_embeddings", false);
  config.qkv_bias = kind == Architecture::kQwen2;
  config.qk_norm = kind == Architecture::kQwen3;
  if (kind == Architecture::kLlama || kind == Architecture::kQwen3) {
    config.attention_bias = reader.Bool("attention_bias", false);
  }
  if (kind == Architecture::kLlama) config.mlp_bias = reader.Bool("mlp_bias", false);
}

// A default that a small vocabulary does not have means that there is none.
void ReadTokens(JsonReader& reader, const Family& family, ModelConfig& config) {
  const int64_t last = config.vocab_size - 1;
  const auto fallback = [&](const char* name, int64_t token) {
    return token <= last && !reader.IsExplicitNull(name) ? token : -1;
  };
  config.bos_token = static_cast<TokenId>(
      reader.Int("bos_token_id", fallback("bos_token_id", family.bos_token), -1, last));
  if (reader.Find("eos_token_id") != nullptr) {
    for (int64_t token : reader.IntList("eos_token_id", kMaxEosTokens, 0, last)) {
      config.eos_tokens.push_back(static_cast<TokenId>(token));
    }
  } else if (const int64_t token = fallback("eos_token_id", family.eos_token);
             token >= 0) {
    config.eos_tokens.push_back(static_cast<TokenId>(token));
  }
}

bool AnyLayerSlides(JsonReader& reader, int32_t num_layers) {
  if (reader.Find("layer_types") == nullptr) {
    return reader.Int("max_window_layers", kDefaultWindowedFrom, 0, kMaxLayers) <
           num_layers;
  }
  const std::vector<std::string> types = reader.StringList("layer_types", kMaxLayers);
  return std::find(types.begin(), types.end(), "sliding_attention") != types.end();
}

// Every layer's attention has to be causal and full, or causal within a window.
void RefuseOtherLayerTypes(JsonReader& reader) {
  for (const std::string& type : reader.StringList("layer_types", kMaxLayers)) {
    if (type == "full_attention" || type == "sliding_attention") continue;
    reader.Fail(
        absl::StatusCode::kUnimplemented,
        absl::StrCat("layer_types names '", type.substr(0, 40),
                     "'; only full_attention and sliding_attention are supported"));
  }
}

void CutToWindow(JsonReader& reader, ModelConfig& config) {
  if (config.architecture == Architecture::kLlama) return;
  RefuseOtherLayerTypes(reader);
  bool slides = !reader.IsExplicitNull("sliding_window");
  if (config.architecture != Architecture::kMistral) {
    slides = slides && reader.Bool("use_sliding_window", false) &&
             AnyLayerSlides(reader, config.num_layers);
  }
  if (!slides) return;
  config.max_positions = std::min(
      config.max_positions,
      static_cast<int32_t>(reader.Int("sliding_window", kDefaultWindow, 1, INT32_MAX)));
}

absl::Status CheckRange(absl::string_view field, int64_t value, int64_t max) {
  if (value >= 1 && value <= max) return absl::OkStatus();
  return OutOfRange(field, value, absl::StrCat("in [1, ", max, "]"));
}

absl::Status CheckTokens(const ModelConfig& config) {
  const auto wanted = absl::StrCat("below vocab_size (", config.vocab_size, ")");
  if (config.bos_token < -1 || config.bos_token >= config.vocab_size) {
    return OutOfRange("bos_token_id", config.bos_token,
                      absl::StrCat("-1 (none) or ", wanted));
  }
  for (TokenId token : config.eos_tokens) {
    if (token < 0 || token >= config.vocab_size) {
      return OutOfRange("eos_token_id", token, absl::StrCat("not negative and ", wanted));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckHeads(const ModelConfig& config) {
  QUIRE_RETURN_IF_ERROR(CheckRange("num_attention_heads", config.num_heads, kMaxHeads));
  QUIRE_RETURN_IF_ERROR(
      CheckRange("num_key_value_heads", config.num_kv_heads, kMaxHeads));
  QUIRE_RETURN_IF_ERROR(CheckRange("head_dim", config.head_dim, kMaxHeadDim));
  if (config.num_heads % config.num_kv_heads != 0) {
    return OutOfRange(
        "num_key_value_heads", config.num_kv_heads,
        absl::StrCat("a divisor of num_attention_heads (", config.num_heads, ")"));
  }
  if (config.head_dim % 2 != 0) return OutOfRange("head_dim", config.head_dim, "even");
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ModelConfig> ModelConfig::FromJson(std::string_view json) {
  QUIRE_ASSIGN_OR_RETURN(const nlohmann::json object,
                         ParseJsonObject(json, "config.json", kMaxConfigBytes));
  JsonReader reader(object, "config.json");
  const Family* family = FindFamily(reader);
  if (family == nullptr) return reader.status();
  ModelConfig config;
  config.architecture = family->architecture;
  RefuseUnsupported(reader, *family);
  ReadSizes(reader, *family, config);
  ReadSwitches(reader, config);
  ReadTokens(reader, *family, config);
  config.rope = ReadRope(reader, kMaxPositions, config.max_positions);
  CutToWindow(reader, config);
  QUIRE_RETURN_IF_ERROR(reader.status());
  if (absl::Status status = config.Validate(); !status.ok()) {
    reader.Fail(status.code(), status.message());
    return reader.status();
  }
  return config;
}

absl::Status ModelConfig::Validate() const {
  QUIRE_RETURN_IF_ERROR(CheckRange("num_hidden_layers", num_layers, kMaxLayers));
  QUIRE_RETURN_IF_ERROR(CheckRange("hidden_size", hidden_size, kMaxWidth));
  QUIRE_RETURN_IF_ERROR(CheckRange("intermediate_size", intermediate_size, kMaxWidth));
  QUIRE_RETURN_IF_ERROR(CheckRange("vocab_size", vocab_size, kMaxVocab));
  QUIRE_RETURN_IF_ERROR(
      CheckRange("max_position_embeddings", max_positions, kMaxPositions));
  QUIRE_RETURN_IF_ERROR(CheckHeads(*this));
  if (!(rms_norm_eps > 0 && rms_norm_eps <= static_cast<float>(kMaxEps))) {
    return absl::InvalidArgumentError(absl::StrCat("rms_norm_eps is ", rms_norm_eps,
                                                   "; it must be in (0, ", kMaxEps, "]"));
  }
  return CheckTokens(*this);
}

int64_t ModelConfig::KvBytesPerToken(int32_t bytes_per_value) const {
  return int64_t{2} * num_layers * num_kv_heads * head_dim * bytes_per_value;
}

}  // namespace quire

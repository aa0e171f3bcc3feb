#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/base/types.h"

namespace quire {

// Rotary position embedding (Su et al., arXiv 2104.09864) and its long-context variants.
enum class RopeType : uint8_t { kDefault, kLinear, kLlama3, kYarn };

struct RopeConfig {
  RopeType type = RopeType::kDefault;
  double theta = 10000.0;
  double factor = 1.0;  // linear, llama3, yarn: how far the context is stretched
  // llama3
  double low_freq_factor = 1.0;
  double high_freq_factor = 4.0;
  // llama3, yarn: context length before stretching, tokens; 0: max_positions
  int32_t original_max_positions = 0;
  // yarn (Peng et al., arXiv 2309.00071)
  double beta_fast = 32.0;
  double beta_slow = 1.0;
  bool truncate = true;  // the ramp's ends are rounded to whole channels
  // Multiplies cos and sin. yarn: 0.1 ln(factor) + 1 unless config.json names one.
  double attention_factor = 1.0;
};

// cos/sin frequencies: radians per position for each pair of channels, head_dim / 2
// values. Formulas of the papers named above, as Hugging Face transformers computes them.
std::vector<double> RopeInverseFrequencies(const RopeConfig& rope, int32_t head_dim,
                                           int32_t max_positions);

enum class Architecture : uint8_t { kLlama, kMistral, kQwen2, kQwen3 };

// Architecture of a Llama-family decoder. Plain value; immutable once validated.
struct ModelConfig {
  Architecture architecture = Architecture::kLlama;
  int32_t num_layers = 0;
  int32_t hidden_size = 0;
  int32_t intermediate_size = 0;
  int32_t num_heads = 0;
  int32_t num_kv_heads = 0;  // divides num_heads
  int32_t head_dim = 0;      // even
  int32_t vocab_size = 0;
  // Longest context the weights were trained for, tokens. A yarn stretch of a stated
  // original length counts; it is cut to the sliding window if there is one, because
  // within the window full attention and sliding attention are the same.
  int32_t max_positions = 0;
  float rms_norm_eps = 0;
  RopeConfig rope;
  bool tie_embeddings = false;
  bool qkv_bias = false;        // Qwen2: biases on q, k, v projections (o has none)
  bool attention_bias = false;  // Llama/Qwen3 switch: biases on q, k, v and o
  bool mlp_bias = false;
  bool qk_norm = false;             // Qwen3: RMSNorm of each head of q and k before RoPE
  int32_t bos_token = -1;           // -1: none
  std::vector<TokenId> eos_tokens;  // generation stops at any of them

  // Parses a Hugging Face config.json and validates it. Fields that may be missing get
  // the value that the family's config class in transformers 5 gives them.
  // kInvalidArgument names the offending field, its limit and its value;
  // kUnimplemented names what is not supported (architecture, activation, rope type,
  // quantisation).
  static absl::StatusOr<ModelConfig> FromJson(std::string_view json);

  absl::Status Validate() const;

  // Bytes of keys and values that one token keeps, over all layers.
  int64_t KvBytesPerToken(int32_t bytes_per_value) const;
};

}  // namespace quire

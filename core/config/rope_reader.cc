#include "core/config/rope_reader.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <string>

#include "absl/strings/str_cat.h"

namespace quire {
namespace {

using nlohmann::json;

constexpr double kDefaultTheta = 10000.0;
constexpr double kMinTheta = 2.0;
constexpr double kMaxTheta = 1e12;
constexpr double kMaxFactor = 1e4;
constexpr const char* kOriginal = "original_max_position_embeddings";

// Where a config keeps its rotary settings; transformers 5 lets the old field win.
const json* FindParameters(JsonReader& config) {
  for (const char* name : {"rope_scaling", "rope_parameters"}) {
    const json* parameters = config.Object(name);
    if (parameters != nullptr && !parameters->empty()) return parameters;
  }
  return nullptr;
}

std::optional<RopeType> TypeNamed(const std::string& name) {
  if (name == "default") return RopeType::kDefault;
  if (name == "linear") return RopeType::kLinear;
  if (name == "llama3") return RopeType::kLlama3;
  if (name == "yarn") return RopeType::kYarn;
  return std::nullopt;
}

void ReadLlama3(JsonReader& rope, RopeConfig& out) {
  out.low_freq_factor = rope.Number("low_freq_factor", std::nullopt, 1e-3, 1e3);
  out.high_freq_factor = rope.Number("high_freq_factor", std::nullopt, 1e-3, 1e3);
  if (out.high_freq_factor <= out.low_freq_factor) {
    rope.Fail(
        absl::StatusCode::kInvalidArgument,
        absl::StrCat("high_freq_factor is ", out.high_freq_factor,
                     "; it must be above low_freq_factor (", out.low_freq_factor, ")"));
  }
}

// Peng et al. (arXiv 2309.00071) section 3.4; mscale as DeepSeek's configs weigh it.
double YarnScale(double factor, double mscale) {
  return factor <= 1 ? 1.0 : 0.1 * mscale * std::log(factor) + 1.0;
}

double YarnAttentionFactor(JsonReader& rope, double factor) {
  const double mscale = rope.Number("mscale", 0.0, 0.0, 100.0);
  const double mscale_all_dim = rope.Number("mscale_all_dim", 0.0, 0.0, 100.0);
  const bool both = mscale != 0 && mscale_all_dim != 0;
  const double inferred =
      both ? YarnScale(factor, mscale) / YarnScale(factor, mscale_all_dim)
           : YarnScale(factor, 1.0);
  return rope.Number("attention_factor", inferred, 0.0, 100.0);
}

void ReadYarn(JsonReader& rope, RopeConfig& out) {
  const auto or_default = [](double value, double fallback) {
    return value == 0 ? fallback : value;  // transformers reads 0 as "not given"
  };
  out.beta_fast = or_default(rope.Number("beta_fast", 0.0, 0.0, 1e4), 32.0);
  out.beta_slow = or_default(rope.Number("beta_slow", 0.0, 0.0, 1e4), 1.0);
  out.truncate = rope.Bool("truncate", true);
  out.attention_factor = YarnAttentionFactor(rope, out.factor);
}

// The length before stretching; a field of that name outside the rope object wins.
int32_t ReadOriginal(JsonReader& config, JsonReader& rope, int32_t limit,
                     int32_t fallback) {
  JsonReader& holder = config.Find(kOriginal) != nullptr ? config : rope;
  return static_cast<int32_t>(holder.Int(kOriginal, fallback, 1, limit));
}

void ReadScaling(JsonReader& config, JsonReader& rope, int32_t limit,
                 int32_t& max_positions, RopeConfig& out) {
  const bool has_original =
      config.Find(kOriginal) != nullptr || rope.Find(kOriginal) != nullptr;
  if (out.type != RopeType::kLinear) {
    out.original_max_positions = ReadOriginal(config, rope, limit, max_positions);
  }
  std::optional<double> fallback;
  if (out.type == RopeType::kYarn && has_original) {
    fallback =
        std::max(1.0, static_cast<double>(max_positions) / out.original_max_positions);
  }
  out.factor = rope.Number("factor", fallback, 1.0, kMaxFactor);
  if (out.type == RopeType::kLlama3) ReadLlama3(rope, out);
  if (out.type != RopeType::kYarn) return;
  ReadYarn(rope, out);
  if (has_original) {
    const double stretched = std::floor(out.factor * out.original_max_positions);
    max_positions =
        std::max(max_positions, static_cast<int32_t>(std::min<double>(stretched, limit)));
  }
}

void RefusePartial(JsonReader& reader) {
  const double share = reader.Number("partial_rotary_factor", 1.0, 0.0, 1.0);
  if (share == 1.0) return;
  reader.Fail(absl::StatusCode::kUnimplemented,
              absl::StrCat("partial_rotary_factor is ", share, "; only 1 is supported"));
}

}  // namespace

RopeConfig ReadRope(JsonReader& config, int32_t limit_positions, int32_t& max_positions) {
  RopeConfig out;
  RefusePartial(config);
  out.theta = config.Number("rope_theta", kDefaultTheta, kMinTheta, kMaxTheta);
  const json* parameters = FindParameters(config);
  if (parameters == nullptr) return out;

  JsonReader rope(*parameters, absl::StrCat(config.where(), ": rope settings"));
  RefusePartial(rope);
  out.theta = rope.Number("rope_theta", out.theta, kMinTheta, kMaxTheta);
  const std::string type = rope.String("rope_type", rope.String("type", "default"));
  if (rope.Find("full_attention") != nullptr ||
      rope.Find("sliding_attention") != nullptr) {
    rope.Fail(absl::StatusCode::kUnimplemented,
              "a rope for each layer type is not supported");
  } else if (const auto known = TypeNamed(type); known.has_value()) {
    out.type = *known;
  } else {
    rope.Fail(absl::StatusCode::kUnimplemented,
              absl::StrCat("rope_type is '", type.substr(0, 40),
                           "'; default, linear, llama3 and yarn are supported"));
  }
  if (rope.ok() && out.type != RopeType::kDefault) {
    ReadScaling(config, rope, limit_positions, max_positions, out);
  }
  config.Adopt(rope.status());
  return out;
}

}  // namespace quire

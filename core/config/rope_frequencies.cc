#include <algorithm>
#include <cmath>
#include <cstddef>
#include <numbers>

#include "core/base/check.h"
#include "core/config/model_config.h"

// Computed in float, step by step like transformers: at position 30,000 the last bit of a
// frequency turns the angle by 1e-3 radians, and weights were trained with those bits.
namespace quire {
namespace {

constexpr float kTwoPi = static_cast<float>(2 * std::numbers::pi);

std::vector<float> WaveFactors(double theta, int32_t head_dim) {
  std::vector<float> factors(static_cast<size_t>(head_dim / 2));
  for (size_t i = 0; i < factors.size(); ++i) {
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(head_dim);
    factors[i] = static_cast<float>(std::pow(theta, static_cast<double>(exponent)));
  }
  return factors;
}

// Llama 3.1: long waves are stretched, short ones kept, those between blended.
float Llama3Frequency(float plain, const RopeConfig& rope, double original) {
  const auto factor = static_cast<float>(rope.factor);
  const auto low = static_cast<float>(rope.low_freq_factor);
  const auto high = static_cast<float>(rope.high_freq_factor);
  const auto length = static_cast<float>(original);
  const float wave = kTwoPi / plain;
  if (wave > length / low) return plain / factor;
  if (wave < length / high) return plain;
  const float smooth = (length / wave - low) / (high - low);
  return (1 - smooth) * plain / factor + smooth * plain;
}

// The channel (of head_dim) that turns `rotations` times within the original length:
// Peng et al. (arXiv 2309.00071) section 3.2.
double ChannelOf(double rotations, const RopeConfig& rope, int32_t head_dim,
                 double original) {
  return head_dim * std::log(original / (rotations * 2 * std::numbers::pi)) /
         (2 * std::log(rope.theta));
}

struct Ramp {
  float begin = 0;
  float width = 1;
  // 0: keep the frequency; 1: stretch it.
  float At(size_t i) const {
    return std::clamp((static_cast<float>(i) - begin) / width, 0.0f, 1.0f);
  }
};

Ramp YarnRamp(const RopeConfig& rope, int32_t head_dim, double original) {
  double begin = ChannelOf(rope.beta_fast, rope, head_dim, original);
  double end = ChannelOf(rope.beta_slow, rope, head_dim, original);
  if (rope.truncate) {
    begin = std::floor(begin);
    end = std::ceil(end);
  }
  begin = std::max(begin, 0.0);
  end = std::min(end, static_cast<double>(head_dim - 1));
  if (begin == end) end += 0.001;
  return {static_cast<float>(begin), static_cast<float>(end - begin)};
}

}  // namespace

std::vector<double> RopeInverseFrequencies(const RopeConfig& rope, int32_t head_dim,
                                           int32_t max_positions) {
  QUIRE_CHECK(head_dim > 0 && head_dim % 2 == 0);
  const double original =
      rope.original_max_positions > 0 ? rope.original_max_positions : max_positions;
  const auto factor = static_cast<float>(rope.factor);
  const Ramp ramp =
      rope.type == RopeType::kYarn ? YarnRamp(rope, head_dim, original) : Ramp{};
  const std::vector<float> waves = WaveFactors(rope.theta, head_dim);
  std::vector<double> frequencies(waves.size());
  for (size_t i = 0; i < waves.size(); ++i) {
    const float plain = 1.0f / waves[i];
    switch (rope.type) {
      case RopeType::kDefault:
        frequencies[i] = plain;
        break;
      case RopeType::kLinear:
        frequencies[i] = plain / factor;
        break;
      case RopeType::kLlama3:
        frequencies[i] = Llama3Frequency(plain, rope, original);
        break;
      case RopeType::kYarn: {
        const float keep = 1 - ramp.At(i);
        frequencies[i] = 1.0f / (factor * waves[i]) * (1 - keep) + plain * keep;
        break;
      }
    }
  }
  return frequencies;
}

}  // namespace quire

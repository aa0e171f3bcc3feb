#include "core/sampling/counter_random.h"

namespace quire {
namespace {

constexpr uint64_t kGoldenGamma =
    0x9e3779b97f4a7c15;  // odd, nearest to 2^64 / golden ratio

uint64_t Mix(uint64_t z) {
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
  z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
  return z ^ (z >> 31);
}

}  // namespace

double UniformAt(uint64_t seed, int64_t step) {
  const uint64_t start = Mix(seed + kGoldenGamma);
  const uint64_t bits = Mix(start + (static_cast<uint64_t>(step) + 1) * kGoldenGamma);
  return static_cast<double>(bits >> 11) * 0x1p-53;
}

}  // namespace quire

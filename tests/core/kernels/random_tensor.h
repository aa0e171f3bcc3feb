#pragma once

#include <random>
#include <vector>

#include "ATen/core/Tensor.h"
#include "ATen/ops/empty.h"

namespace quire::testing {

// Normal values, rounded to `type`.
inline at::Tensor RandomTensor(std::vector<int64_t> shape, at::ScalarType type,
                               uint32_t seed, float deviation = 1) {
  at::Tensor t = at::empty(shape, at::kFloat);
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, deviation);
  for (int64_t i = 0; i < t.numel(); ++i) t.data_ptr<float>()[i] = normal(random);
  return t.to(type);
}

inline std::vector<double> ToDoubles(const at::Tensor& t) {
  const at::Tensor d = t.to(at::kDouble).contiguous();
  return {d.const_data_ptr<double>(), d.const_data_ptr<double>() + d.numel()};
}

// Largest |a - b|, relative to the largest |b|.
inline double RelativeError(const std::vector<double>& a, const std::vector<double>& b) {
  double error = 0, size = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    // A NaN compares false with everything: count it as infinitely wrong.
    error = std::abs(a[i] - b[i]) <= error ? error
            : std::isnan(a[i])             ? INFINITY
                                           : std::abs(a[i] - b[i]);
    size = std::max(size, std::abs(b[i]));
  }
  return error / size;
}

}  // namespace quire::testing

#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

namespace quire::testing {

// Refined attention with plain loops in double, independent of every kernel: the softmax
// of one query over weighted columns, and the shares that decide what is read.
struct OracleColumn {
  std::vector<double> key;
  std::vector<double> value;
  double log2_weight = 0;
};

inline double Dot(const std::vector<double>& a, const std::vector<double>& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

// softmax over the columns of q . key * scale + weight ln 2, applied to the values.
inline std::vector<double> WeightedAttention(const std::vector<double>& q, double scale,
                                             const std::vector<OracleColumn>& columns) {
  double max = -INFINITY, total = 0;
  std::vector<double> scores;
  for (const OracleColumn& c : columns) {
    scores.push_back(Dot(q, c.key) * scale + c.log2_weight * std::log(2.0));
    max = std::max(max, scores.back());
  }
  std::vector<double> out(q.size());
  for (size_t j = 0; j < columns.size(); ++j) {
    const double p = std::exp(scores[j] - max);
    total += p;
    for (size_t i = 0; i < out.size(); ++i) out[i] += p * columns[j].value[i];
  }
  for (double& x : out) x /= total;
  return out;
}

// Share of each key in the softmax over all of them.
inline std::vector<double> Shares(const std::vector<double>& q, double scale,
                                  const std::vector<std::vector<double>>& keys) {
  double max = -INFINITY, total = 0;
  std::vector<double> shares;
  for (const auto& key : keys) {
    shares.push_back(Dot(q, key) * scale);
    max = std::max(max, shares.back());
  }
  for (double& x : shares) total += x = std::exp(x - max);
  for (double& x : shares) x /= total;
  return shares;
}

// A key as a 4-bit index keeps it: its page's mean plus whole steps, -8 to 7, of its
// largest distance from the mean / 7.49.
inline std::vector<double> CodedKey(const std::vector<double>& key,
                                    const std::vector<double>& mean) {
  double high = 0;
  for (size_t i = 0; i < key.size(); ++i) {
    high = std::max(high, std::abs(key[i] - mean[i]));
  }
  std::vector<double> coded(key.size());
  for (size_t i = 0; i < key.size(); ++i) {
    const double step = high / 7.49;
    const double code = step > 0 ? std::nearbyint((key[i] - mean[i]) / step) : 0;
    coded[i] = mean[i] + step * std::max(-8.0, std::min(7.0, code));
  }
  return coded;
}

}  // namespace quire::testing

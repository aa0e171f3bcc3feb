#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

namespace quire::testing {

// Causal attention with plain loops in double: the reference of every attention kernel.
// q [T, H, D], k, v [N, G, D], row t at position begin + t sees keys [0, begin + t] ->
// [T, H, D].
struct AttentionProblem {
  int64_t tokens = 0, heads = 0, kv_heads = 0, head_dim = 0, begin = 0;
  double scale = 1;
  std::vector<double> q, k, v;
};

inline std::vector<double> AttentionOracle(const AttentionProblem& p) {
  std::vector<double> out(p.q.size());
  const int64_t d = p.head_dim;
  for (int64_t t = 0; t < p.tokens; ++t) {
    for (int64_t h = 0; h < p.heads; ++h) {
      const int64_t g = h / (p.heads / p.kv_heads);
      const double* const q = &p.q[(t * p.heads + h) * d];
      double* const o = &out[(t * p.heads + h) * d];
      double total = 0, max = -INFINITY;
      std::vector<double> score(p.begin + t + 1);
      for (size_t n = 0; n < score.size(); ++n) {
        for (int64_t i = 0; i < d; ++i)
          score[n] += q[i] * p.k[(n * p.kv_heads + g) * d + i];
        score[n] *= p.scale;
        max = std::max(max, score[n]);
      }
      for (size_t n = 0; n < score.size(); ++n) {
        const double w = std::exp(score[n] - max);
        total += w;
        for (int64_t i = 0; i < d; ++i) o[i] += w * p.v[(n * p.kv_heads + g) * d + i];
      }
      for (int64_t i = 0; i < d; ++i) o[i] /= total;
    }
  }
  return out;
}

}  // namespace quire::testing

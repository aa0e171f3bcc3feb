#pragma once

#include <cstdint>
#include <vector>

#include "ATen/core/Tensor.h"
#include "core/attention/faithful_attention.h"
#include "core/attention/faithful_cache.h"

namespace quire {

// A step's queries of one key/value head, as its groups are made with.
struct HeadQueries {
  at::Tensor q;  // [rows, R, D] of the sequence's rows, of the compute type
  Position begin = 0;
  float scale = 1;

  Position end() const { return begin + static_cast<Position>(q.size(0)); }
};

// Pooled groups, float32: keys, values [n, D], and bias [n] of their scores.
struct PooledGroups {
  at::Tensor keys, values, bias;
};
// P = softmax(q . K_run), mean over the R query heads; the pooled key is sum P_j K_j, the
// value likewise. q [n, R, D] times PoolingScale; keys, values [n, m, D]; float32 on any
// device.
PooledGroups PoolGroups(const at::Tensor& q, const at::Tensor& keys,
                        const at::Tensor& values, GroupBias bias);

// Of the scores by which groups are pooled and decoded tokens are split, when attention's
// have `scale`.
inline float PoolingScale(float scale, const FaithfulOptions& options) {
  return options.scaled_pooling ? scale : 1.0f;
}

// Writes `fresh` behind the first `used` rows of `all`, which grows by a quarter at
// least: appending a group now and then costs no more than its own size.
void AppendRows(const at::Tensor& fresh, int64_t used, at::Tensor& all);

// Importance of the tokens [begin, queries.end()): s_i = sum over the sampled queries of
// their causal softmax attention to i over all keys, summed over the R query heads,
// divided by the number of sampled queries that see i (arXiv 2505.22107, section 4).
// Counts as selection.
std::vector<float> TokenImportance(const FaithfulCache& cache, const HeadQueries& queries,
                                   int64_t sampled, Position begin, AttentionWork& work);

// How much the last query alone attends to each of the tokens [begin, queries.end()),
// among themselves; mean over the R query heads. Counts as selection.
std::vector<float> LastQueryAttention(const FaithfulCache& cache,
                                      const HeadQueries& queries,
                                      const FaithfulOptions& options, Position begin,
                                      AttentionWork& work);

// Pools the tokens `members`, every m of them a group, and appends the groups to the
// head, whose plan has them already: PoolGroups with the query of PoolingRows. Counts as
// statistics.
void AppendGroups(const FaithfulCache& cache, const HeadQueries& queries,
                  const FaithfulOptions& options, const std::vector<Position>& members,
                  FaithfulLayer::Head& head, AttentionWork& work);

}  // namespace quire

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
// head, whose plan has them already. P = softmax(q . K_run), with the query of the run's
// last member, mean over the R query heads; the pooled key is sum P_j K_j, the value
// likewise. A last member before the step lends the query of the step's first row. Counts
// as statistics.
void AppendGroups(const FaithfulCache& cache, const HeadQueries& queries,
                  const FaithfulOptions& options, const std::vector<Position>& members,
                  FaithfulLayer::Head& head, AttentionWork& work);

}  // namespace quire

#pragma once

#include <cstdint>
#include <vector>

#include "ATen/core/Tensor.h"
#include "core/dga/attention_options.h"
#include "core/dga/attention_stats.h"
#include "core/kernels/kernels.h"

namespace quire {

// One layer's groups of one sequence under Dynamic Group Attention as published
// (arXiv 2505.22107, Algorithms 1 and 2), made causal and streaming: dga.md section 1.
// For every key/value head: which tokens are focal, and the groups made of the others.
struct FaithfulLayer {
  int64_t grouped_end =
      0;  // tokens [0, grouped_end) are focal or in a group, the rest raw
  struct Head {
    std::vector<Position> focal;   // ascending
    std::vector<Position> last;    // last member's position of each group, ascending
    std::vector<int32_t> members;  // of each group
    at::Tensor keys, values;       // [groups, D] float32, pooled
    at::Tensor bias;               // [groups] float32, added to the group's score
  };
  std::vector<Head> heads;  // G
};

// Attention of one sequence's rows of a step, whose keys and values are in the cache
// already; then the rows' tokens join the state. q [G, T, R, D] of the whole step; writes
// rows [first_row, first_row + rows) of out [T, H D]. Adds to stats.work,
// stats.sparse_rows and stats.coverage. Not thread-safe.
void FaithfulAttention(const at::Tensor& q, const kernels::PagedKv& kv,
                       const kernels::SequenceRows& sequence, float scale,
                       const FaithfulOptions& options, FaithfulLayer& state,
                       at::Tensor& out, AttentionStats& stats);

}  // namespace quire

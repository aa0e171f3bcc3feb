#pragma once

#include <cstdint>
#include <vector>

#include "ATen/core/Tensor.h"
#include "core/dga/attention_options.h"
#include "core/dga/attention_stats.h"
#include "core/dga/group_plan.h"
#include "core/kernels/kernels.h"

namespace quire {

// One layer's groups of one sequence under Dynamic Group Attention as published
// (arXiv 2505.22107, Algorithms 1 and 2), made causal and streaming: dga.md section 1.
// For every key/value head: which tokens are focal, and the groups made of the others.
struct FaithfulLayer {
  // Tokens [0, grouped_end) are focal or in a group, the rest raw: fewer than
  // RegroupTokens() of them after every step.
  Position grouped_end = 0;
  struct Head {
    GroupPlan plan;
    // Pooled, float32; row g belongs to group g. Rows beyond the groups are room to grow.
    at::Tensor keys, values;  // [>= groups, D]
    at::Tensor bias;          // [>= groups], added to the group's score
  };
  std::vector<Head> heads;  // G
};

// Rows times R that share what they fetch, as in dense attention: a task's. Bounds the
// memory of the scores.
inline constexpr int64_t kFaithfulTaskQueries = 384;

// Attention of one sequence's rows of a step, whose keys and values are in the cache
// already (no page was dropped); then the rows' tokens join the state, once enough are
// raw. q [G, T, R, D] of the whole step; writes rows [first_row, first_row + rows) of out
// [T, H D].
//
// A row reads the focal tokens at or before it, the complete groups (last member at or
// before it) and every other token at or before it raw. Steps of several rows are chunks
// of a prompt and are split by importance; a step of one row is a decoded token (or a
// prompt's only or left-over one), and the raw tokens are split by its query. With
// options.whole_prompt a chunk is split before its rows are read, else after.
//
// Adds to stats.work (all parts but dense and audit), sparse_rows, coverage and
// selection_seconds, and to head_columns [G], if it is not null, each head's columns. Not
// thread-safe.
void FaithfulAttention(const at::Tensor& q, const kernels::PagedKv& kv,
                       const kernels::SequenceRows& sequence, float scale,
                       const FaithfulOptions& options, FaithfulLayer& state,
                       at::Tensor& out, AttentionStats& stats,
                       int64_t* head_columns = nullptr);

}  // namespace quire

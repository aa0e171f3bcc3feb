#pragma once

#include <cstdint>
#include <vector>

#include "ATen/core/Tensor.h"
#include "absl/types/span.h"
#include "core/attention/faithful_attention.h"
#include "core/dga/attention_options.h"
#include "core/dga/attention_stats.h"
#include "core/kernels/kernels.h"
#include "core/kernels/refined.h"

namespace quire {

// What a sequence's attention remembers between steps, beside the cache.
struct SequenceState {
  std::vector<FaithfulLayer> faithful;         // [layers]; FAITHFUL only
  std::vector<kernels::DroppedPages> dropped;  // [layers]; compact mode only
};

// One sequence of a step: its rows, how they read, and what that took.
struct SequenceAttention {
  kernels::SequenceRows rows;
  AttentionOptions options;
  SequenceState* state = nullptr;  // never null
  std::vector<int64_t> probed;     // of the rows, ascending: importance is wanted
  absl::Span<float> importance;    // [begin + rows], added to
  bool compact = false;  // page_shares are wanted: the prompt's last rows are among these

  AttentionStats stats;
  std::vector<int64_t> head_columns;  // [layers, G]: the columns of stats.work
  std::vector<double> audit_errors;   // of the audited rows, mean over layers
  // [layers, G, blocks] share of each far page in the attention of the last
  // kCompactRows rows, summed over those rows.
  std::vector<float> page_shares;
};

inline constexpr int64_t kCompactRows = 64;

// Every position whose row is audited when it is read sparsely: one in kAuditEvery.
inline constexpr int32_t kAuditEvery = 256;
constexpr bool IsAudited(Position position) {
  return position % kAuditEvery == kAuditEvery - 1;
}

struct LayerAttention {
  int32_t layer = 0;
  int32_t num_layers = 1;
  kernels::HeadShape shape;
  float scale = 1;
};

// Pages of the sequence that may go after a step with `compact`, ascending: in the order
// of their shares, as long as the pages that go have, for every layer and key/value head,
// at most `eps` of the attention of the last rows together.
std::vector<int32_t> PagesToDrop(const SequenceAttention& sequence, int64_t kv_heads,
                                 float eps);

// Attention of one layer for all sequences of a step, each in its own mode; keys and
// values of the rows are in the cache. q [G, T, R, D] -> [T, H D]. `index` may be null if
// no sequence is read in kRefined or kAuto. Not thread-safe.
at::Tensor Attend(const at::Tensor& q, const kernels::PagedKv& kv,
                  kernels::PageIndex* index, const LayerAttention& layer,
                  absl::Span<SequenceAttention> sequences);

}  // namespace quire

#pragma once

#include <cstdint>

#include "ATen/core/Tensor.h"
#include "absl/types/span.h"
#include "core/dga/attention_stats.h"
#include "core/kernels/kernels.h"

namespace quire {

// Where some rows of one sequence look, in one layer: adds to attention[i] the causal
// softmax attention of each row to the token at position i, summed over the rows and
// averaged over the query heads. Always dense, whatever mode the request has; pages that
// were dropped (kNoBlock) get nothing and the others share all. The rows' own keys are in
// the cache already.
//
// q [G, T, R, D] of a whole step; rows: ascending, in [0, sequence.rows), relative to
// sequence.first_row; attention: at least begin + last row + 1 long. Counts its work as
// an audit's. Thread-safe as far as kernels.h is.
void ProbeAttention(const at::Tensor& q, const kernels::PagedKv& kv,
                    const kernels::SequenceRows& sequence, absl::Span<const int64_t> rows,
                    float scale, absl::Span<float> attention, AttentionWork& work);

}  // namespace quire

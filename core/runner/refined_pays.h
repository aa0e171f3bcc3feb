#pragma once

#include <cstdint>

#include "core/base/types.h"
#include "core/config/model_config.h"
#include "core/dga/attention_options.h"

namespace quire {

// Whether a GPU reads a decoding row refined. By its own length alone, so that what a
// request gets does not depend on who else is in a step.
//
// REFINED: from SparseFrom() on, as on the CPU. AUTO: where it also pays. Three launches
// cost some 25 us more than dense attention's one, which is what dense attention takes
// for 100 MB of keys and values (H200, docs/gpu.md); rows of half that length come in
// batches.
inline constexpr int64_t kRefinedPaysBytes = 48 << 20;  // of a layer's keys and values

inline bool ReadsRefined(const ModelConfig& config, const AttentionOptions& attention,
                         Position position) {
  if (attention.mode == AttentionMode::kDense || attention.eps == 0) return false;
  const int64_t seen = int64_t{position} + 1;
  if (seen < attention.SparseFrom()) return false;
  const int64_t bytes = seen * config.num_kv_heads * config.head_dim * 4;
  return attention.mode == AttentionMode::kRefined || bytes >= kRefinedPaysBytes;
}

}  // namespace quire

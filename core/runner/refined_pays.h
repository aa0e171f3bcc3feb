#pragma once

#include <algorithm>
#include <cstdint>

#include "core/base/types.h"
#include "core/config/model_config.h"
#include "core/dga/attention_options.h"

namespace quire {

// Whether a GPU reads a decoding row refined, and which rows of a prompt's chunk. By
// their own place alone, so that what a request gets does not depend on who else is in a
// step.
//
// REFINED: from SparseFrom() on, as on the CPU. AUTO: where it also pays. What does not
// depend on the length takes some 20 us, as long as dense attention of 64 MiB of keys and
// values (H200, one sequence, docs/gpu.md); rows of less come in batches.
inline constexpr int64_t kRefinedPaysBytes = 48 << 20;  // of a layer's keys and values

inline bool ReadsRefined(const ModelConfig& config, const AttentionOptions& attention,
                         Position position) {
  if (attention.mode == AttentionMode::kDense || attention.eps == 0) return false;
  const int64_t seen = int64_t{position} + 1;
  if (seen < attention.SparseFrom()) return false;
  const int64_t bytes = seen * config.num_kv_heads * config.head_dim * 4;
  return attention.mode == AttentionMode::kRefined || bytes >= kRefinedPaysBytes;
}

// Of a chunk's rows the last so many. A prompt's rows read keys together, so theirs are
// fewer bytes for the same work: AUTO is refined from a shorter text on (docs/gpu.md).
inline constexpr int64_t kRefinedPromptPaysBytes = 32 << 20;  // of a layer's cache

inline int64_t RefinedRows(const ModelConfig& config, const AttentionOptions& attention,
                           Position begin, int64_t rows) {
  if (attention.mode == AttentionMode::kDense || attention.eps == 0) return 0;
  int64_t from = int64_t{attention.SparseFrom()} - 1;  // position
  if (attention.mode == AttentionMode::kAuto) {
    const int64_t token_bytes = int64_t{config.num_kv_heads} * config.head_dim * 4;
    from = std::max(from, kRefinedPromptPaysBytes / token_bytes);
  }
  return std::clamp<int64_t>(int64_t{begin} + rows - from, 0, rows);
}

// AttentionOptions::refined_pays_from: below, AUTO is refined neither in prompts nor in
// decoding. Whether there are kernels for the one and the other.
inline int32_t RefinedPaysFrom(const ModelConfig& config, bool prompts, bool decodes) {
  const int64_t token_bytes = int64_t{config.num_kv_heads} * config.head_dim * 4;
  int64_t from = kNeverPays;
  if (prompts) from = std::min(from, kRefinedPromptPaysBytes / token_bytes + 1);
  if (decodes) {
    from = std::min(from, (kRefinedPaysBytes + token_bytes - 1) / token_bytes);
  }
  return static_cast<int32_t>(from);
}

}  // namespace quire

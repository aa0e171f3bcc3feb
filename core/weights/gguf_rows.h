#pragma once

#include <cstdint>

#include "core/base/check.h"

namespace quire {

// GGUF files of the llama architecture keep the rows of q_proj and k_proj (weights and
// biases) in the order of Meta's rotary embedding, which turns channels 2i and 2i + 1 of
// a head together; Hugging Face and this engine turn i and i + head_dim / 2. The row of
// the GGUF tensor that holds row `row` of the Hugging Face tensor. REQUIRES: row >= 0,
// head_dim even and positive.
inline int64_t UnpermuteGgufRow(int64_t row, int64_t head_dim) {
  QUIRE_CHECK(row >= 0 && head_dim > 0 && head_dim % 2 == 0);
  const int64_t head = row / head_dim;
  const int64_t channel = row % head_dim;
  const int64_t half = channel / (head_dim / 2);
  const int64_t pair = channel % (head_dim / 2);
  return head * head_dim + 2 * pair + half;
}

}  // namespace quire

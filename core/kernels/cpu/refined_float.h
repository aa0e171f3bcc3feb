#pragma once

#include <cstdint>

#include "core/kernels/cpu/bf16_kernels.h"
#include "core/kernels/refined.h"

// Refined attention over a float32 cache, in plain loops: the product of machines without
// AVX512-BF16, and the reference of the faster kernels.
namespace quire::kernels {

struct FloatRefinedArgs {
  const float* q = nullptr;  // [T, R, D] of one key/value head
  const PagedKv* kv = nullptr;
  const PageIndex* index = nullptr;
  const SequenceRows* sequence = nullptr;
  const RefinedOptions* options = nullptr;
  int64_t head = 0;
  int64_t share = 1;
  float* out = nullptr;          // [T, H, D]
  float* page_shares = nullptr;  // [pages] of this head, or null
};

// Token `token` of the sequence's rows.
void RefinedTokenFloat(const FloatRefinedArgs& args, int64_t token,
                       bf16::RefinedCounts& counts);

}  // namespace quire::kernels

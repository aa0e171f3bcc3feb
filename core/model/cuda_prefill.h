#pragma once

#include <cstdint>

#include "ATen/core/Tensor.h"
#include "absl/types/span.h"
#include "core/kernels/kernels.h"
#include "core/model/cuda_kv_cache.h"

// Attention of many rows of one sequence on a GPU: densely by LibTorch's kernels, refined
// by core/kernels/cuda/refined_prefill.h.
namespace quire {

// Keys or values of positions [0, tokens), as one tensor: side [num_blocks, G, B, D],
// pages on the device -> [G, tokens, D].
at::Tensor GatherTokens(const at::Tensor& side, const int32_t* pages, int64_t tokens);

// Causal attention of a sequence's rows over all of its cache, scores times `scale`.
// q, out [T, H, D] of the step, contiguous; k, v [num_blocks, G, B, D], the layer's
// cache; pages on the device, of positions [0, begin + rows). Writes rows [first_row,
// first_row + rows) of out. Takes memory for the keys and values before a tile (see
// prompt_pieces.h) and for three [tile, H, D].
void DensePrefill(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                  const int32_t* pages, const kernels::SequenceRows& sequence,
                  float scale, at::Tensor& out);

// Has cuDNN make the plans that DensePrefill needs for prompts of at most `tokens` tokens
// of a model with such heads: the shapes of prompt_pieces.h, once each. For the calling
// thread; plans are not shared. Waits for the device. Some 55 ms a plan (H200).
void PlanDensePrefill(int64_t heads, int64_t kv_heads, int64_t head_dim, int64_t tokens,
                      at::Device device);

struct RefinedPromptOptions {
  float scale = 1;
  float eps = 0;
  int32_t layer = 0;
  const int32_t* pages = nullptr;  // on the device, of positions [0, begin + rows)
  void* counts = nullptr;  // on the device, kernels::cuda::RefinedDecodeArgs::Counts
};
// The same by refined attention: q, out [T, H, D] contiguous, k, v the layer's cache.
void RefinedPrompt(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                   const kernels::SequenceRows& sequence,
                   const RefinedPromptOptions& options, at::Tensor& out);

// Adds to attention [n] float32, n = begin + last row + 1, the causal softmax attention
// of the rows (ascending, in [0, sequence.rows)) to each position, summed over the rows
// and averaged over the H query heads. q [T, H, D] of the step, k [G, >= n, D].
void ProbeOnDevice(const at::Tensor& q, const at::Tensor& k,
                   const kernels::SequenceRows& sequence, absl::Span<const int64_t> rows,
                   float scale, at::Tensor& attention);

}  // namespace quire

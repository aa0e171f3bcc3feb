#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "core/kernels/cuda/cuda_kernels.h"
#include "core/kernels/cuda/refined.h"

// Refined attention of a prompt's rows on a Hopper GPU (sm_90a). The rule is that of
// core/kernels/refined.h, but rows choose together: a *tile* of neighbouring tokens,
// times the R query heads that share a key, has at most kTileRows rows, and a far key is
// read by all of them with probability P = min(1, p / eps^2), p the largest share that it
// has of any of these rows' attention. P is no smaller than what a row alone would use
// (up to what the estimate of its sum errs, see below), so neither is the error larger;
// more columns are read. Unbiased for each row, since draws depend on nothing but the
// tile's place. Two things to know: what a row draws (not what it expects) depends on
// rows of its tile that come after it; and where a chunk ends within a tile, its rows
// choose without the rest.
//
// Three launches. 1. Queries and keys become 8-bit floats (e4m3) in the layout that the
// tensor cores read. 2. Every far key is scored by them, a page of 64 keys against a tile
// at a time: a row's softmax sum begins with what is near, and grows while pages pass by,
// from the latest to the first, by the keys that are sure to be read and, from a sample
// of the pages, by the others; so shares are known at once, and few keys cost
// exponentials. What the sums miss moves probabilities, not what is expected. 3. Near
// keys and chosen ones are read exactly, with one softmax over all of them
// (FlashAttention, Dao et al., arXiv 2205.14135).
//
// Layouts: prefill_workspace.cuh. Shared memory at D = 128: choosing 32 KB of queries and
// a ring of 64 KB of keys, reading 32 KB of queries and a ring of 64 KB of keys and
// values; two blocks of 256 threads a multiprocessor each.
namespace quire::kernels::cuda {

inline constexpr int kTileRows = 128;

// Tokens of a tile: a power of two of at least 16.
constexpr int TileTokens(int share) {
  int tokens = kTileRows;
  while (tokens * share > kTileRows) tokens /= 2;
  return tokens;
}

struct RefinedPrefillArgs {
  const Bf16* q = nullptr;  // [rows, H, D]
  const Bf16* k = nullptr;  // the layer's cache
  const Bf16* v = nullptr;
  const int32_t* pages = nullptr;  // block ids of positions [0, begin + rows)
  Bf16* out = nullptr;             // [rows, H, D]
  int64_t begin = 0;               // position of row 0
  int32_t rows = 0;
  int32_t query_heads = 0;
  int32_t kv_heads = 0;
  int32_t head_dim = 0;
  float scale = 1;
  float log2_tau = 0;                           // 2 log2(eps)
  uint32_t seed = 0;                            // of the draws, another for each layer
  void* workspace = nullptr;                    // RefinedPrefillWorkspaceBytes
  RefinedDecodeArgs::Counts* counts = nullptr;  // added to, of all rows
};

// head_dim 64 or 128, R at most kMaxRefinedPrefillShare, on a device of compute
// capability 9.0.
inline constexpr int32_t kMaxRefinedPrefillShare = 8;
bool HasRefinedPrefillKernel(int32_t head_dim, int32_t share);

// First page that the rows of a tile see near: pages [1, it) are far. Two tiles share it.
constexpr int64_t TileWindowPage(int64_t position, int share) {
  const int64_t first = position / (2 * TileTokens(share)) * (2 * TileTokens(share));
  const int64_t page = (first - 128) / kPageTokens;
  return page > 1 ? page : 1;
}

int64_t RefinedPrefillWorkspaceBytes(int64_t begin, int32_t rows, int32_t query_heads,
                                     int32_t kv_heads, int32_t head_dim);
cudaError_t RefinedPrefill(const RefinedPrefillArgs& args, cudaStream_t stream);

}  // namespace quire::kernels::cuda

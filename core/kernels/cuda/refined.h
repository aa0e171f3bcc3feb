#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "core/kernels/cuda/cuda_kernels.h"

// Refined attention of decoding rows on a GPU: the rule of core/kernels/refined.h, in
// which a row reads its first page and a window exactly and draws the rest by what an
// index says of every key. As core/kernels/cuda/cuda_kernels.h in all else.
namespace quire::kernels::cuda {

// One layer's index: what is kept of a complete page of one key/value head. Key j is
// approximately mean + scale_j (code_j - 8), code_j in [1, 16) for each channel. Bytes of
// a page, in the order in which lanes of a warp read them:
//   codes: word (c, j) has channels 4 c + i of key j in the low half of byte i, channels
//          4 c + i + D / 2 in the high half; with c = 4 t + l, j = 16 v + 8 h + r it lies
//          at [v][t / 2][4 r + l][t % 2][h];
//   scales [r][v][h] float32, key 16 v + 8 h + r;
//   mean [D] bfloat16.
constexpr int64_t IndexPageBytes(int32_t head_dim) {
  return kPageTokens * head_dim / 2 + kPageTokens * 4 + head_dim * 2;
}

// k: the layer's cache; blocks [count]: complete pages. index [num_blocks, G,
// IndexPageBytes].
cudaError_t IndexPages(const Bf16* k, const int32_t* blocks, int64_t count,
                       int32_t kv_heads, int32_t head_dim, uint8_t* index,
                       cudaStream_t stream);

// Rows of one token each, all with at least one far page. R at most
// kMaxRefinedDecodeShare. Tables and index are read while the kernel before in the stream
// still runs, so that one must not write them. Blocks wait for each other: a device runs
// one such launch at a time (launches that overlap by their order in a stream do no
// harm).
// Shared memory of a block: 225 KB at 128 channels, 214 KB at 64; 512 threads. Choice and
// weights are those of core/kernels/refined.h, where their sources are named; parts of
// rows are merged in their order, summing in float32.
inline constexpr int32_t kMaxRefinedDecodeShare = 8;
// Draws that stand behind the table's end once more.
inline constexpr int32_t kRefinedDrawPadding = 64;
struct RefinedDecodeArgs {
  // What every row reads for certain: tables of its first page and its window, lengths of
  // the keys in them. `out`, `rows`, sizes and `scale` are those of the whole;
  // `workspace` is not used.
  DecodeArgs near;
  const uint8_t* index = nullptr;           // the layer's
  const int32_t* first_far_page = nullptr;  // [sequences + 1] far pages of those before
  const int32_t* far_pages = nullptr;       // [first_far_page[sequences]] block ids
  const int16_t* draws = nullptr;           // DrawTable with kRefinedDrawPadding
  const float* log2_tau = nullptr;          // [sequences] 2 log2(eps)
  int64_t far_page_count = 0;               // first_far_page[sequences]
  int32_t layer = 0;                        // for MixPlace, where a row's draws begin
  void* workspace = nullptr;  // RefinedWorkspaceBytes, zeroed once when made
  // Added to, one for each sequence: far columns read (over its query heads), and sums
  // over rows and heads of coverage and of sqrt(1 - coverage), in units of 2^-32.
  struct Counts {
    unsigned long long columns;
    unsigned long long coverage;
    unsigned long long risk;
  };
  Counts* counts = nullptr;
};
int64_t RefinedWorkspaceBytes(int32_t max_sequences, int32_t query_heads,
                              int32_t kv_heads, int32_t head_dim, int32_t blocks,
                              int64_t max_far_pages);
cudaError_t RefinedDecode(const RefinedDecodeArgs& args, cudaStream_t stream);

}  // namespace quire::kernels::cuda

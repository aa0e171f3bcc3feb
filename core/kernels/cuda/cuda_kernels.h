#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstdint>

// Kernels of a decoder on an NVIDIA GPU. They know no framework: device pointers, sizes
// and a stream. Each function only launches, and returns cudaGetLastError(); results are
// there when the stream is. Sizes are checked by the caller (core/model/cuda_decoder).
//
// Shapes: T rows (tokens of all sequences of a step), E hidden size, H query heads, G
// key/value heads, R = H / G, D head size, a multiple of 64 up to 256, V vocabulary.
// Cache: k, v [num_blocks, G, kPageTokens, D]. Activations bfloat16, the residual stream
// and every accumulation float32. Tensors are contiguous and start at 16-byte addresses.
namespace quire::kernels::cuda {

using Bf16 = __nv_bfloat16;

inline constexpr int kPageTokens = 64;

// table [V, E], tokens [T] -> residual [T, E].
cudaError_t EmbedRows(const Bf16* table, const int32_t* tokens, int64_t rows,
                      int64_t hidden, float* residual, cudaStream_t stream);

inline constexpr int64_t kMaxHidden = 16384;
// residual [T, E] += update [T, E] unless that is null; out [T, E] = residual / rms *
// weight [E] (Zhang and Sennrich, arXiv 1910.07467). E is a multiple of 8, at most
// kMaxHidden. The weight must not have been written by the kernel before in the stream.
cudaError_t AddRmsNorm(float* residual, const Bf16* update, const float* weight,
                       float eps, int64_t rows, int64_t hidden, Bf16* out,
                       cudaStream_t stream);

// residual [T, E] += update [T, E].
cudaError_t AddRows(float* residual, const Bf16* update, int64_t size,
                    cudaStream_t stream);

// gate_up [T, 2 F] -> out [T, F]: silu(gate) * up. F is a multiple of 8.
cudaError_t SiluMul(const Bf16* gate_up, int64_t rows, int64_t inner, Bf16* out,
                    cudaStream_t stream);

// A linear layer of few rows: x [T, K], weight [N, K], bias [N] or null -> out [T, N],
// sums in float32. What a row gets does not depend on the others, nor on how many there
// are. The weight must not have been written by the kernel before in the stream: it is
// read while that one still runs.
struct LinearArgs {
  const Bf16* x = nullptr;
  const Bf16* weight = nullptr;
  const Bf16* bias = nullptr;
  void* out = nullptr;     // bfloat16, or
  bool float_out = false;  // float32
  // The weight is [2 N, K] and the bias [2 N], gate and up: out is silu(gate) * up,
  // bfloat16.
  bool gated = false;
  int64_t rows = 0;
  int64_t in = 0;        // K
  int64_t features = 0;  // N
};
inline constexpr int64_t kMaxLinearRows = 16;  // of T
// 32 divides K, 8 divides N, T is at most kMaxLinearRows.
bool HasLinearKernel(int64_t rows, int64_t in, int64_t features);
// Whether LinearRows streams a weight of so many bytes through shared memory, which the
// current device must be able to: then it is as fast as the memory is.
bool StreamsLinear(int64_t weight_bytes);
cudaError_t LinearRows(const LinearArgs& args, cudaStream_t stream);

// Rotary embedding's angles of a step, the same for all layers: cos, sin [T, D / 2] of
// positions [T] times inverse_frequencies [D / 2], each rounded to float32; the results
// times `factor`.
cudaError_t RopeTable(const int32_t* positions, const float* inverse_frequencies,
                      float factor, int64_t rows, int64_t half, float* cos, float* sin,
                      cudaStream_t stream);

struct RopeArgs {
  const Bf16* qkv = nullptr;  // [T, (H + 2 G) D]: heads of q, then k, then v
  const float* cos = nullptr;
  const float* sin = nullptr;
  const float* q_norm = nullptr;  // [D], or null (Qwen3 has them)
  const float* k_norm = nullptr;  // [D], or null
  // [T] block * kPageTokens + place in the block; negative: the row is kept nowhere.
  const int32_t* slots = nullptr;
  Bf16* q = nullptr;  // [T, H, D]
  Bf16* k = nullptr;  // the layer's cache
  Bf16* v = nullptr;
  float norm_eps = 0;
  int64_t rows = 0;
  int32_t query_heads = 0;
  int32_t kv_heads = 0;
  int32_t head_dim = 0;
};
// Splits and rotates (channel i with i + D / 2), writes k and v of every row to its slot.
cudaError_t RopeAndStore(const RopeArgs& args, cudaStream_t stream);

// A block's keys and values of one layer, [G, kPageTokens, D] each, to another block.
cudaError_t CopyBlock(Bf16* cache, int64_t from, int64_t to, int64_t block_values,
                      cudaStream_t stream);

// Pages of one sequence as one tensor: cache [num_blocks, G, kPageTokens, D], pages [n]
// -> out [G, tokens, D], tokens <= n * kPageTokens.
cudaError_t GatherPages(const Bf16* cache, const int32_t* pages, int64_t tokens,
                        int32_t kv_heads, int32_t head_dim, Bf16* out,
                        cudaStream_t stream);

// Attention of some rows over some keys: `out` and the natural log of the sum of weights,
// `lse`. A part without keys has -inf, and may hold anything. Strides count values: of a
// row, of a key/value head, and of a query head among the R that share one, which in
// `out` are D apart.
struct AttentionPart {
  const Bf16* out = nullptr;
  const float* lse = nullptr;
  int64_t out_row = 0, out_head = 0;
  int64_t lse_row = 0, lse_head = 0, lse_share = 0;
};
inline constexpr int kMaxAttentionParts = 24;
struct MergeArgs {
  AttentionPart parts[kMaxAttentionParts];  // of the same rows over disjoint keys
  int32_t count = 0;                        // of them
  Bf16* out = nullptr;                      // [rows, H, D]
  int64_t rows = 0;
  int32_t query_heads = 0;
  int32_t kv_heads = 0;
  int32_t head_dim = 0;
};
// All parts become one attention over all keys, summed in float32. One part alone keeps
// its bits.
cudaError_t MergeAttention(const MergeArgs& args, cudaStream_t stream);

// Of each row of logits [T, V]: log of the sum of exponentials, the first of the largest
// values' indices, and, for targets[i] >= 0, the target's logit and how many logits are
// larger (its rank less one). NaN counts as -infinity. target, target_logit and larger
// may all be null.
struct RowSummary {
  const float* logits = nullptr;
  const int32_t* targets = nullptr;
  int64_t rows = 0;
  int64_t vocab = 0;
  float* log_sum = nullptr;
  int32_t* best = nullptr;
  float* best_logit = nullptr;
  float* target_logit = nullptr;
  int32_t* larger = nullptr;
};
cudaError_t SummarizeRows(const RowSummary& summary, cudaStream_t stream);

// Dense attention of sequences with one new token each, over the paged cache: all of a
// step at a time, whatever their lengths. The work is cut in equal parts by bytes, so
// that every multiprocessor streams as much (split-KV as in Flash-Decoding, Dao et al.
// 2023, with the even partition of stream-K, Osama et al., arXiv 2301.03598). A partial
// result is (max, sum, weighted values); whoever finishes a head last merges its parts.
struct DecodeArgs {
  const Bf16* q = nullptr;  // [T, H, D]
  const Bf16* k = nullptr;  // the layer's cache
  const Bf16* v = nullptr;
  Bf16* out = nullptr;            // [T, H, D]
  const int32_t* rows = nullptr;  // [sequences] row of the step
  // [sequences] keys that the row sees, at least 1; pages past them may be listed, and
  // are not read.
  const int32_t* lengths = nullptr;
  const int32_t* first_page = nullptr;  // [sequences + 1] pages of those before
  const int32_t* pages = nullptr;       // [first_page[sequences]] block ids
  void* workspace = nullptr;            // DecodeWorkspaceBytes, zeroed once when made
  int32_t sequences = 0;
  int32_t max_sequences = 0;  // that the workspace was made for, as is the next
  int32_t blocks = 0;         // the device's multiprocessors
  int32_t query_heads = 0;
  int32_t kv_heads = 0;
  int32_t head_dim = 0;
  float scale = 1;
};
inline constexpr int32_t kMaxDecodeShare = 24;  // of R
// head_dim 64 or 128; R at most kMaxDecodeShare.
bool HasDecodeKernel(int32_t head_dim, int32_t share);
int64_t DecodeWorkspaceBytes(int32_t max_sequences, int32_t query_heads, int32_t kv_heads,
                             int32_t head_dim, int32_t blocks);
cudaError_t DenseDecode(const DecodeArgs& args, cudaStream_t stream);

}  // namespace quire::kernels::cuda

#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "ATen/core/Tensor.h"
#include "absl/types/span.h"
#include "core/base/types.h"
#include "core/dga/attention_stats.h"

// Every operation of a decoder, the only kernel header that models include.
//
// Shapes: T rows (tokens of all sequences of a step), E hidden size, H query heads, G
// key/value heads, R = H / G, D head size, N cached tokens of a sequence, B tokens in a
// cache block. Activations are bfloat16 or float32 ("compute type"); what is summed over
// layers (the residual stream) and every accumulation is float32. All tensors are on the
// CPU and contiguous. Functions use ATen's intra-op threads and may be called by one
// thread at a time. Preconditions are checked (QUIRE_CHECK): callers validate user input
// before.
namespace quire::kernels {

// True where bfloat16 products run on AVX512-BF16; elsewhere float32 is the faster type.
bool HasFastBFloat16();

// x [T, E] float32, weight [E] float32 -> [T, E] of type `out`: x / rms(x) * weight
// (Zhang and Sennrich, arXiv 1910.07467).
at::Tensor RmsNorm(const at::Tensor& x, const at::Tensor& weight, float eps,
                   at::ScalarType out);

// gate_up [T, 2 F] -> [T, F]: silu(gate) * up (Shazeer, arXiv 2002.05202).
at::Tensor SiluMul(const at::Tensor& gate_up);

// A linear layer's weight in the layout this machine multiplies fastest. Immutable; safe
// to share between threads.
class Linear {
 public:
  Linear() = default;
  // weight [out, in] float32, bias [out] float32 or undefined; kept in type `compute`.
  static Linear Pack(const at::Tensor& weight, const at::Tensor& bias,
                     at::ScalarType compute);

  at::Tensor Apply(const at::Tensor& x) const;  // [T, in] -> [T, out] of the compute type
  at::Tensor ApplyF32(const at::Tensor& x) const;  // [T, in] -> [T, out] float32
  void AddTo(const at::Tensor& x,
             at::Tensor& sum) const;  // sum [T, out] float32 += x W^T + bias

  // Rows of the weight (an embedding look-up): ids [T] -> [T, in] float32.
  at::Tensor Rows(absl::Span<const TokenId> ids) const;

  int64_t in_features() const { return in_; }
  int64_t out_features() const { return out_; }
  int64_t bytes() const;

 private:
  int64_t in_ = 0;
  int64_t out_ = 0;
  at::Tensor
      weight_;  // float32: [out, in]; bfloat16 with AVX512-BF16: [out/64, in/2, 64, 2]
  at::Tensor bias_;  // [out] float32, or undefined
  bool packed_ = false;
};

// One layer's cache. Block b holds tokens of one sequence; within it every head's keys
// and values are contiguous: k, v [num_blocks, G, B, D] of the compute type.
struct PagedKv {
  at::Tensor k;
  at::Tensor v;
  int64_t block_tokens() const { return k.size(2); }
};

// One sequence's rows within a step.
struct SequenceRows {
  int64_t first_row = 0;  // of the step's T rows
  int64_t rows = 0;
  Position begin = 0;                // position of the first row in the sequence
  absl::Span<const BlockId> blocks;  // cover [0, begin + rows)
};

struct HeadShape {
  int64_t query_heads = 0;  // H
  int64_t kv_heads = 0;     // G
  int64_t head_dim = 0;     // D
};

// Rotary embedding's table: cos and sin of position * frequency, [positions, D / 2]
// float32, attention factor included.
struct RopeTable {
  at::Tensor cos;
  at::Tensor sin;
};

// Splits qkv [T, (H + 2 G) D] (heads of q, then k, then v), normalises each head of q and
// k if norms are given ([D] float32; Qwen3), rotates q and k (channel i with i + D/2),
// and writes k and v of every row to its block. Returns q as [G, T, R, D]: the rows that
// share a key/value head lie together.
at::Tensor RopeAndStore(const at::Tensor& qkv, const HeadShape& shape,
                        const RopeTable& rope, const at::Tensor& q_norm,
                        const at::Tensor& k_norm, float norm_eps,
                        absl::Span<const SequenceRows> sequences, PagedKv& kv);

// Causal attention of a sequence's rows over all of its cache, scores times `scale`.
// q [G, T, R, D] of the step, from RopeAndStore; writes rows [first_row, first_row +
// rows) of out [T, H D] of the compute type.
void DenseAttention(const at::Tensor& q, const PagedKv& kv, const SequenceRows& sequence,
                    float scale, at::Tensor& out);

// The same for sequences of one row each, all at a time: what a step that decodes needs.
void DenseDecode(const at::Tensor& q, const PagedKv& kv,
                 absl::Span<const SequenceRows> sequences, float scale, at::Tensor& out);

// The same for some of the sequence's rows, `tokens` ascending in [0, rows) -> [n, H D].
at::Tensor DenseAttentionOf(const at::Tensor& q, const PagedKv& kv,
                            const SequenceRows& sequence,
                            absl::Span<const int64_t> tokens, float scale);

// What DenseAttention of these rows takes: multiply-adds, columns, and bytes that its
// tasks fetch, in the `dense` part.
AttentionWork DenseWork(const HeadShape& shape, const SequenceRows& sequence,
                        int64_t element_bytes);

}  // namespace quire::kernels

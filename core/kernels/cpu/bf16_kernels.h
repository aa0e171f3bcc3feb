#pragma once

#include <cstdint>

#include "core/base/types.h"

// The AVX512-BF16 kernels behind core/kernels/kernels.h: raw pointers, no threads, no
// allocation; callers split the work and own the scratch memory. Call only where
// HasFastBFloat16(). bfloat16 values are passed as their bits.
namespace quire::kernels::bf16 {

// ---------------------------------------------------------------- linear layers
// A weight [out, in] is kept as ceil(out / 64) panels [in / 2][64][2], zero-padded; in is
// even.

int64_t PackedSize(int64_t out, int64_t in);  // values

// Packs panels [first, last) of a float32 weight.
void PackPanels(const float* weight, int64_t out, int64_t in, int64_t first, int64_t last,
                uint16_t* packed);

// packed row -> float32 [in]
void UnpackRow(const uint16_t* packed, int64_t in, int64_t row, float* out);

enum class Store : uint8_t { kBFloat16, kFloat32, kAddFloat32 };

struct LinearArgs {
  const uint16_t* x = nullptr;  // [rows, in]
  const uint16_t* packed = nullptr;
  const float* bias = nullptr;  // [out] or null
  void* y = nullptr;            // [rows, out] of the stored type
  int64_t rows = 0;
  int64_t in = 0;
  int64_t out = 0;
  Store store = Store::kFloat32;
};

// Columns of panels [first, last).
void LinearPanels(const LinearArgs& args, int64_t first, int64_t last);

// ---------------------------------------------------------------- row by row; width % 16
// == 0

// gate_up [rows, 2 width] -> out [rows, width]
void SiluMulRows(const uint16_t* gate_up, int64_t rows, int64_t width, uint16_t* out);
// x, weight float32 -> out
void RmsNormRows(const float* x, const float* weight, int64_t rows, int64_t width,
                 float eps, uint16_t* out);

// ---------------------------------------------------------------- attention
struct AttentionArgs {
  const uint16_t* q =
      nullptr;  // [rows, D] of one key/value head: token t, query head r at t R + r
  const uint16_t* k = nullptr;  // [num_blocks, G, B, D]
  const uint16_t* v = nullptr;
  const BlockId* blocks = nullptr;  // of the sequence
  uint16_t* out = nullptr;          // [tokens, H, D]
  int64_t head = 0;                 // which key/value head
  int64_t kv_heads = 0;             // G
  int64_t share = 1;                // R, query heads of a key/value head
  int64_t head_dim = 0;             // D; a multiple of 64, at most kMaxHeadDim
  int64_t block_tokens = 0;         // B; a multiple of 16
  int64_t begin = 0;                // position of token 0 of q and out
  const int32_t* positions =
      nullptr;  // of every token, ascending; null: begin, begin + 1 ...
  float scale = 1;
};
inline constexpr int64_t kMaxHeadDim = 256;

// Floats of scratch that PrefillRows needs for `rows` rows.
int64_t PrefillScratchSize(int64_t rows, int64_t head_dim);

// Rows [first, last): causal attention, FlashAttention's online softmax (Dao et al.,
// arXiv 2205.14135) over blocks of 256 keys.
void PrefillRows(const AttentionArgs& args, int64_t first, int64_t last, float* scratch);

// One token's R rows over keys [first, last), all of which it sees; a partial result: sum
// [R, D], maximum of the scores (in units of log2) and sum of 2^(score - maximum) [R], to
// be merged by MergeDecode.
void DecodeKeys(const AttentionArgs& args, int64_t first, int64_t last, float* sum,
                float* max, float* total);
// parts: consecutive [R, D], [R], [R] results -> out of the token.
void MergeDecode(const AttentionArgs& args, int64_t parts, const float* sum,
                 const float* max, const float* total);

// ---------------------------------------------------------------- refined attention
// core/kernels/refined.h describes the index and the choice.
inline constexpr int64_t kRefinedPage = 64;      // keys
inline constexpr int64_t kRefinedWindow = 128;   // keys
inline constexpr int64_t kRefinedDraws = 32768;  // entries of the table of draws

struct RefinedArgs {
  AttentionArgs base;
  const uint8_t* codes = nullptr;  // [num_blocks, G, 64 D / 2]
  const float* scales = nullptr;   // [num_blocks, G, 64]
  const float* key_means = nullptr;
  const float* value_means = nullptr;  // [num_blocks, G, D]
  const int16_t* draws = nullptr;
  const uint32_t* draw_starts = nullptr;  // of every token
  float log2_tau = 0;                     // -inf: every key is read
  const float* log2_counts = nullptr;     // [65] log2 n
  bool group_means = false;
  bool page_means_only = false;
  float* page_shares = nullptr;  // [pages], or null; of rows from page_shares_from on
  int64_t page_shares_from = 0;
  int64_t dropped = 0;
  const int32_t* dropped_pages = nullptr;
  const uint16_t* dropped_keys = nullptr;  // [dropped, G, D]
  const uint16_t* dropped_values = nullptr;
};

// What RefinedTokens did, all of its rows together.
struct RefinedCounts {
  int64_t near_columns = 0;  // sinks and window, query heads times keys
  int64_t far_columns = 0;   // far tokens, and means of pages
  int64_t near_keys = 0;     // keys fetched by tasks
  int64_t far_keys = 0;
  int64_t index_pages = 0;  // pages of the index fetched by tasks
  int64_t index_columns = 0;
  int64_t mean_pages = 0;   // means of pages fetched by tasks
  int64_t index_means = 0;  // means of pages that query heads were compared with
  double coverage = 0;
  double tail_risk = 0;
  int64_t selection_cycles = 0;
  int64_t cycles = 0;
};

// A far column that a token reads.
struct FarColumn {
  const uint16_t* key;
  const uint16_t* value;
  float log2_weight;
  int32_t position;  // first token of a page of means
  bool mean;
};

// Told of a token's far columns. `call` may be null.
struct ColumnRecorder {
  void (*call)(void* context, int64_t token, const FarColumn* columns,
               int64_t count) = nullptr;
  void* context = nullptr;
};

inline constexpr int64_t kMaxRefinedShare = 24;  // R

// Tokens that share a task's fetches: a power of two that divides a page.
int64_t RefinedTaskTokens(int64_t share);
// Floats of scratch for tasks that see up to `positions` keys.
int64_t RefinedScratchSize(int64_t positions, int64_t head_dim);

// Tokens [first, last) of one task: their positions lie in one aligned run of
// RefinedTaskTokens.
void RefinedTokens(const RefinedArgs& args, int64_t first, int64_t last, float* scratch,
                   RefinedCounts& counts, const ColumnRecorder& recorder);

}  // namespace quire::kernels::bf16

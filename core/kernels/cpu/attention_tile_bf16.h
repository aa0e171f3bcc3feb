#pragma once

#include <limits>

#include "core/kernels/cpu/bf16_kernels.h"
#include "core/kernels/cpu/bf16_tile.h"

// What dense and refined attention share: packing keys and values into panels, scores,
// the online softmax (Dao et al., arXiv 2205.14135) and the weighted sum of values.
// Include only from files that are compiled for AVX512-BF16.
namespace quire::kernels::bf16 {

// Keys that are packed at a time (in the second-level cache together with the values),
// and rows whose scores over them stay in the first-level cache.
inline constexpr int64_t kKeyBlock = 256;
inline constexpr int64_t kKeyPanels = kKeyBlock / kPanel;
inline constexpr int64_t kGroupRows = 24;
inline constexpr float kLog2E = 1.44269504f;

inline int64_t Min(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t Max(int64_t a, int64_t b) { return a > b ? a : b; }

inline float Larger(float a, float b) { return a > b ? a : b; }

inline const Bf16* KeyRow(const AttentionArgs& a, const Bf16* cache, int64_t position) {
  const int64_t block = static_cast<int64_t>(a.blocks[position / a.block_tokens]);
  return cache +
         ((block * a.kv_heads + a.head) * a.block_tokens + position % a.block_tokens) *
             a.head_dim;
}

// Position of the token that a row of q belongs to.
inline int64_t PositionOf(const AttentionArgs& a, int64_t row) {
  const int64_t token = row / a.share;
  return a.positions != nullptr ? a.positions[token] : a.begin + token;
}

// Where a unit of rows keeps what it works on.
struct Scratch {
  Bf16* keys;     // [4 panels][D / 2][64][2]
  Bf16* values;   // [4 panels][32][D][2] as D / 64 panels a side: [4][D / 64][32][64][2]
  float* scores;  // [24][256]
  Bf16* weights;  // [24][256]
  float* sum;     // [rows][D]
  float* max;     // [rows]
  float* total;   // [rows]
};

inline Scratch Carve(float* memory, int64_t rows, int64_t d) {
  Scratch s;
  s.keys = reinterpret_cast<Bf16*>(memory);
  memory += kKeyBlock * d / 2;
  s.values = reinterpret_cast<Bf16*>(memory);
  memory += kKeyBlock * d / 2;
  s.scores = memory;
  memory += kGroupRows * kKeyBlock;
  s.weights = reinterpret_cast<Bf16*>(memory);
  memory += kGroupRows * kKeyBlock / 2;
  s.sum = memory;
  memory += rows * d;
  s.max = memory;
  memory += rows;
  s.total = memory;
  return s;
}

// Sixteen rows of D values, row(i) each, become columns [column, column + 16) of a panel.
template <typename Row>
inline void PackKeyRows16(Row&& row, int64_t head_dim, Bf16* panel, int64_t column) {
  const Bf16* from[16];
  for (int64_t i = 0; i < 16; ++i) from[i] = row(i);
  for (int64_t d = 0; d < head_dim; d += 32) {
    __m512i rows[16];
    for (int64_t i = 0; i < 16; ++i) rows[i] = _mm512_loadu_si512(from[i] + d);
    Transpose16(rows);
    for (int64_t i = 0; i < 16; ++i) {
      _mm512_storeu_si512(panel + (d / 2 + i) * 2 * kPanel + 2 * column, rows[i]);
    }
  }
}

// Interleaves two rows of 32 values: a0 b0 a1 b1 ...
inline void Interleave(__m512i a, __m512i b, Bf16* out) {
  alignas(64) static const uint16_t kLow[32] = {
      0, 32, 1, 33, 2,  34, 3,  35, 4,  36, 5,  37, 6,  38, 7,  39,
      8, 40, 9, 41, 10, 42, 11, 43, 12, 44, 13, 45, 14, 46, 15, 47};
  const __m512i low = _mm512_load_si512(kLow);
  const __m512i high = _mm512_add_epi16(low, _mm512_set1_epi16(16));
  _mm512_storeu_si512(out, _mm512_permutex2var_epi16(a, low, b));
  _mm512_storeu_si512(out + 32, _mm512_permutex2var_epi16(a, high, b));
}

// Sixteen rows of D values, as rows [at, at + 16) of D / 64 panels of 64 columns.
template <typename Row>
inline void PackValueRows16(Row&& row, int64_t head_dim, Bf16* panels, int64_t at) {
  for (int64_t i = 0; i < 16; i += 2) {
    const Bf16* const first = row(i);
    const Bf16* const second = row(i + 1);
    for (int64_t d = 0; d < head_dim; d += 32) {
      Bf16* const panel = panels + d / kPanel * kPanel * kPanel;
      Interleave(_mm512_loadu_si512(first + d), _mm512_loadu_si512(second + d),
                 panel + (at + i) * kPanel + 2 * (d % kPanel));
    }
  }
}

alignas(64) inline constexpr Bf16 kZeroRow[kMaxHeadDim] = {};

// Sixteen keys and values from `position` on; those at `end` and after are zero.
inline void Pack16(const AttentionArgs& a, int64_t position, int64_t end, Bf16* keys,
                   Bf16* values, int64_t at) {
  const auto rows = [&](const Bf16* cache) {
    const Bf16* const first = position < end ? KeyRow(a, cache, position) : kZeroRow;
    return [=, &a](int64_t i) {
      return position + i < end ? first + i * a.head_dim : kZeroRow;
    };
  };
  PackKeyRows16(rows(a.k), a.head_dim, keys, at);
  PackValueRows16(rows(a.v), a.head_dim, values, at);
}

inline void PackBlock(const AttentionArgs& a, int64_t first, int64_t end,
                      const Scratch& s) {
  const int64_t panel_size = kPanel * a.head_dim;
  // To the end of a started panel: no value may be a NaN left in memory.
  const int64_t keys = Min(kKeyBlock, (end - first + kPanel - 1) / kPanel * kPanel);
  for (int64_t key = 0; key < keys; key += 16) {
    const int64_t panel = key / kPanel * panel_size;
    Pack16(a, first + key, end, s.keys + panel, s.values + panel, key % kPanel);
  }
}

// scores[rows, 64 * panels] = Q K^T
inline void Scores(const AttentionArgs& a, int64_t row, int64_t rows, int64_t panels,
                   const Scratch& s) {
  for (int64_t p = 0; p < panels; ++p) {
    for (int64_t r = 0; r < rows; r += kTileRows) {
      WithRows(Min(kTileRows, rows - r), [&]<int kRows>() {
        Tile<kRows> tile;
        tile.Zero();
        tile.Multiply(a.q + (row + r) * a.head_dim, a.head_dim,
                      s.keys + p * kPanel * a.head_dim, a.head_dim / 2);
        tile.Store(s.scores + r * kKeyBlock + p * kPanel, kKeyBlock);
      });
    }
  }
}

// One row of scores becomes weights 2^(score - max); returns the factor that brings what
// was summed before to the new maximum. keys: how many the row may see.
inline float Soften(const AttentionArgs& a, const float* scores, int64_t keys,
                    int64_t panels, Bf16* weights, float& max, float& total) {
  const __m512 minus_infinity = _mm512_set1_ps(-std::numeric_limits<float>::infinity());
  const __m512 scale = _mm512_set1_ps(a.scale * kLog2E);
  const int64_t width = panels * kPanel;
  __m512 high = minus_infinity;
  for (int64_t i = 0; i < keys; i += 16) {
    const __mmask16 mask =
        keys - i >= 16 ? 0xffff : static_cast<__mmask16>((1u << (keys - i)) - 1);
    high = _mm512_mask_max_ps(high, mask, high,
                              _mm512_mul_ps(_mm512_loadu_ps(scores + i), scale));
  }
  const float new_max =
      _mm512_reduce_max_ps(high) > max ? _mm512_reduce_max_ps(high) : max;
  const __m512 offset = _mm512_set1_ps(new_max);
  __m512 sum = _mm512_setzero_ps();
  for (int64_t i = 0; i < width; i += 32) {
    __m512 p[2];
    for (int j = 0; j < 2; ++j) {
      const int64_t left = keys - i - 16 * j;
      const __mmask16 mask = left >= 16  ? 0xffff
                             : left <= 0 ? 0
                                         : static_cast<__mmask16>((1u << left) - 1);
      const __m512 x =
          _mm512_fmsub_ps(_mm512_loadu_ps(scores + i + 16 * j), scale, offset);
      p[j] = _mm512_maskz_mov_ps(mask, Exp2(x));
      sum = _mm512_add_ps(sum, p[j]);
    }
    StoreBf16(weights + i, p[0], p[1]);
  }
  const __m512 change = _mm512_set1_ps(max - new_max);  // -inf at first: factor 0
  const float factor = _mm512_cvtss_f32(Exp2(change));
  total = total * factor + _mm512_reduce_add_ps(sum);
  max = new_max;
  return factor;
}

// sum[rows, D] = sum * factor + weights V
inline void AddValues(const AttentionArgs& a, int64_t row, int64_t rows, int64_t panels,
                      const float* factor, const Scratch& s) {
  const int64_t d = a.head_dim;
  for (int64_t column = 0; column < d; column += kPanel) {
    for (int64_t r = 0; r < rows; r += kTileRows) {
      WithRows(Min(kTileRows, rows - r), [&]<int kRows>() {
        Tile<kRows> tile;
        float* const sum = s.sum + (row + r) * d + column;
        tile.Load(sum, d);
        tile.Scale(factor + r);
        for (int64_t p = 0; p < panels; ++p) {
          tile.Multiply(s.weights + r * kKeyBlock + p * kPanel, kKeyBlock,
                        s.values + p * kPanel * d + column * kPanel, kPanel / 2);
        }
        tile.Store(sum, d);
      });
    }
  }
}

// Rows [row, row + rows) of the whole q against the packed block of keys [first, end).
inline void GroupBlock(const AttentionArgs& a, int64_t base, int64_t row, int64_t rows,
                       int64_t first, int64_t end, const Scratch& s) {
  const int64_t last_position = Min(end - 1, PositionOf(a, row + rows - 1));
  if (last_position < first) return;
  const int64_t panels = Min(kKeyPanels, (last_position - first) / kPanel + 1);
  Scores(a, row, rows, panels, s);
  float factor[kGroupRows];
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t seen = Min(end, PositionOf(a, row + r) + 1) - first;
    const int64_t own = row + r - base;
    factor[r] = Soften(a, s.scores + r * kKeyBlock, Max(0, Min(kKeyBlock, seen)), panels,
                       s.weights + r * kKeyBlock, s.max[own], s.total[own]);
  }
  AddValues(a, row - base, rows, panels, factor, s);
}

// No key yet.
inline void StartRows(int64_t rows, int64_t d, const Scratch& s) {
  for (int64_t i = 0; i < rows * d; ++i) s.sum[i] = 0;
  for (int64_t i = 0; i < rows; ++i) {
    s.max[i] = -std::numeric_limits<float>::infinity();
    s.total[i] = 0;
  }
}

// Rows [first, last) take in keys [key, end), as far as each may see them. The first key
// that a row takes in must be one it sees.
inline void AttendKeys(const AttentionArgs& a, int64_t first, int64_t last, int64_t key,
                       int64_t end, const Scratch& s) {
  for (; key < end; key += kKeyBlock) {
    PackBlock(a, key, end, s);
    for (int64_t row = first; row < last; row += kGroupRows) {
      GroupBlock(a, first, row, Min(kGroupRows, last - row), key, end, s);
    }
  }
}

inline void WriteRow(const AttentionArgs& a, int64_t row, const float* sum, float total) {
  const int64_t token = row / a.share;
  const int64_t head = a.head * a.share + row % a.share;
  Bf16* const out = a.out + (token * a.kv_heads * a.share + head) * a.head_dim;
  const __m512 inverse = _mm512_set1_ps(1.0f / total);
  for (int64_t d = 0; d < a.head_dim; d += 32) {
    StoreBf16(out + d, _mm512_mul_ps(_mm512_loadu_ps(sum + d), inverse),
              _mm512_mul_ps(_mm512_loadu_ps(sum + d + 16), inverse));
  }
}

}  // namespace quire::kernels::bf16

#include <limits>

#include "core/kernels/cpu/bf16_kernels.h"
#include "core/kernels/cpu/bf16_tile.h"

// Attention of one token. With the few rows that share a key/value head, bringing keys
// into panels costs more than multiplying them: here keys are multiplied as they lie, and
// sixteen sums over the lanes of a register are taken at a time.
namespace quire::kernels::bf16 {
namespace {

// Keys between two looks at the maximum.
constexpr int64_t kRun = 64;

inline int64_t Min(int64_t a, int64_t b) { return a < b ? a : b; }

inline __mmask16 FirstLanes(int64_t n) {
  return n >= 16 ? 0xffff : static_cast<__mmask16>((1u << (n < 0 ? 0 : n)) - 1);
}

// Four registers -> one whose 128-bit lane l holds, of each, the sum of its lane l.
inline __m512 SumInLanes(__m512 a, __m512 b, __m512 c, __m512 d) {
  const __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
  const __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
  const __m512d x = _mm512_castps_pd(ab), y = _mm512_castps_pd(cd);
  return _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(x, y)),
                       _mm512_castpd_ps(_mm512_unpackhi_pd(x, y)));
}

// Sums over the four 128-bit lanes of each, sixteen results in order.
inline __m512 SumOverLanes(const __m512 (&g)[4]) {
  const __m512 low = _mm512_add_ps(_mm512_shuffle_f32x4(g[0], g[1], 0x88),
                                   _mm512_shuffle_f32x4(g[0], g[1], 0xdd));
  const __m512 high = _mm512_add_ps(_mm512_shuffle_f32x4(g[2], g[3], 0x88),
                                    _mm512_shuffle_f32x4(g[2], g[3], 0xdd));
  return _mm512_add_ps(_mm512_shuffle_f32x4(low, high, 0x88),
                       _mm512_shuffle_f32x4(low, high, 0xdd));
}

// kRows rows of a token over consecutive keys of one cache block. D = 32 kChunks.
template <int kRows, int kChunks>
struct Rows {
  __m512bh q[kRows][kChunks];
  __m512 sum[kRows][2 * kChunks];
  float max[kRows];
  float total[kRows];

  void Start(const Bf16* rows) {
    for (int r = 0; r < kRows; ++r) {
      for (int c = 0; c < kChunks; ++c) {
        q[r][c] = (__m512bh)_mm512_loadu_si512(rows + (r * kChunks + c) * 32);
      }
      for (__m512& s : sum[r]) s = _mm512_setzero_ps();
      max[r] = -std::numeric_limits<float>::infinity();
      total[r] = 0;
    }
  }

  // scores[r][i] = q_r . key_i for 16 keys.
  void Scores16(const Bf16* keys, float* scores) const {
    __m512 lanes[kRows][4];
    for (int four = 0; four < 4; ++four) {
      __m512 part[kRows][4];
      for (int i = 0; i < 4; ++i) {
        const Bf16* const key = keys + (4 * four + i) * 32 * kChunks;
        for (int c = 0; c < kChunks; ++c) {
          const __m512bh k = (__m512bh)_mm512_loadu_si512(key + 32 * c);
          for (int r = 0; r < kRows; ++r) {
            part[r][i] =
                _mm512_dpbf16_ps(c == 0 ? _mm512_setzero_ps() : part[r][i], q[r][c], k);
          }
        }
      }
      for (int r = 0; r < kRows; ++r) {
        lanes[r][four] = SumInLanes(part[r][0], part[r][1], part[r][2], part[r][3]);
      }
    }
    for (int r = 0; r < kRows; ++r) {
      _mm512_store_ps(scores + r * kRun, SumOverLanes(lanes[r]));
    }
  }

  // Scores of `keys` keys become weights; what was summed before is brought to the new
  // maximum.
  void Soften(int r, int64_t keys, float scale, const float* scores, Bf16* weights) {
    __m512 x[4];
    __m512 high = _mm512_set1_ps(max[r]);
    for (int i = 0; i < 4; ++i) {
      x[i] = _mm512_mul_ps(_mm512_load_ps(scores + 16 * i), _mm512_set1_ps(scale));
      high = _mm512_mask_max_ps(high, FirstLanes(keys - 16 * i), high, x[i]);
    }
    const float new_max = _mm512_reduce_max_ps(high);
    __m512 all = _mm512_setzero_ps();
    for (int i = 0; i < 4; ++i) {
      x[i] = _mm512_maskz_mov_ps(FirstLanes(keys - 16 * i),
                                 Exp2(_mm512_sub_ps(x[i], _mm512_set1_ps(new_max))));
      all = _mm512_add_ps(all, x[i]);
    }
    StoreBf16(weights, x[0], x[1]);
    StoreBf16(weights + 32, x[2], x[3]);
    const __m512 factor = Exp2(_mm512_set1_ps(max[r] - new_max));  // -inf at first: 0
    for (__m512& s : sum[r]) s = _mm512_mul_ps(s, factor);
    total[r] = total[r] * _mm512_cvtss_f32(factor) + _mm512_reduce_add_ps(all);
    max[r] = new_max;
  }

  // sum += weights of two keys times their values.
  void AddPair(const Bf16* first, const Bf16* second, const Bf16* weights) {
    __m512bh weight[kRows];
    for (int r = 0; r < kRows; ++r) {
      int32_t pair;
      std::memcpy(&pair, weights + r * kRun, sizeof pair);
      weight[r] = (__m512bh)_mm512_set1_epi32(pair);
    }
    for (int c = 0; c < kChunks; ++c) {
      const __m512i a = _mm512_loadu_si512(first + 32 * c);
      const __m512i b = _mm512_loadu_si512(second + 32 * c);
      // Lane by lane: columns 0..3, 8..11, 16..19, 24..27 and the others between them.
      const __m512bh low = (__m512bh)_mm512_unpacklo_epi16(a, b);
      const __m512bh high = (__m512bh)_mm512_unpackhi_epi16(a, b);
      for (int r = 0; r < kRows; ++r) {
        sum[r][2 * c] = _mm512_dpbf16_ps(sum[r][2 * c], weight[r], low);
        sum[r][2 * c + 1] = _mm512_dpbf16_ps(sum[r][2 * c + 1], weight[r], high);
      }
    }
  }

  // Columns in order again.
  void Finish(float* out, float* max_out, float* total_out) const {
    const __m512i first =
        _mm512_setr_epi32(0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23);
    const __m512i second = _mm512_add_epi32(first, _mm512_set1_epi32(8));
    for (int r = 0; r < kRows; ++r) {
      for (int c = 0; c < kChunks; ++c) {
        float* const to = out + (r * kChunks + c) * 32;
        const __m512 low = sum[r][2 * c], high = sum[r][2 * c + 1];
        _mm512_storeu_ps(to, _mm512_permutex2var_ps(low, first, high));
        _mm512_storeu_ps(to + 16, _mm512_permutex2var_ps(low, second, high));
      }
      max_out[r] = max[r];
      total_out[r] = total[r];
    }
  }
};

alignas(64) constexpr Bf16 kZeros[kMaxHeadDim] = {};

struct Run {
  const Bf16* keys;
  const Bf16* values;
  int64_t count;  // at most kRun
};

Run RunAt(const AttentionArgs& a, int64_t key, int64_t last) {
  const int64_t block = static_cast<int64_t>(a.blocks[key / a.block_tokens]);
  const int64_t inside = key % a.block_tokens;
  const int64_t at =
      ((block * a.kv_heads + a.head) * a.block_tokens + inside) * a.head_dim;
  return {a.k + at, a.v + at, Min(kRun, Min(last - key, a.block_tokens - inside))};
}

// Cache blocks lie anywhere in memory, so the processor cannot guess which comes next.
void Prefetch(const AttentionArgs& a, int64_t key, int64_t last) {
  if (key >= last) return;
  const Run next = RunAt(a, key, last);
  for (int64_t i = 0; i < next.count * a.head_dim; i += 32) {
    _mm_prefetch(reinterpret_cast<const char*>(next.keys + i), _MM_HINT_T1);
    _mm_prefetch(reinterpret_cast<const char*>(next.values + i), _MM_HINT_T1);
  }
}

template <int kRows, int kChunks>
void DecodeRows(const AttentionArgs& a, int64_t row, int64_t first, int64_t last,
                float* sum, float* max, float* total) {
  constexpr float kLog2E = 1.44269504f;
  alignas(64) float scores[kRows * kRun] = {};
  alignas(64) Bf16 weights[kRows * kRun];
  Rows<kRows, kChunks> rows;
  rows.Start(a.q + row * a.head_dim);
  for (int64_t key = first; key < last;) {
    const Run run = RunAt(a, key, last);
    Prefetch(a, key + run.count, last);
    for (int64_t i = 0; i < run.count; i += 16) {
      rows.Scores16(run.keys + i * a.head_dim, scores + i);
    }
    for (int r = 0; r < kRows; ++r) {
      rows.Soften(r, run.count, a.scale * kLog2E, scores + r * kRun, weights + r * kRun);
    }
    const Bf16* value = run.values;
    for (int64_t i = 0; i < run.count; i += 2, value += 2 * a.head_dim) {
      // What stands behind the last key may be a NaN left in memory.
      const Bf16* const second = i + 1 < run.count ? value + a.head_dim : kZeros;
      rows.AddPair(value, second, weights + i);
    }
    key += run.count;
  }
  rows.Finish(sum + row * a.head_dim, max + row, total + row);
}

template <int kRows, int kChunks>
void DecodeAll(const AttentionArgs& a, int64_t first, int64_t last, float* sum,
               float* max, float* total) {
  int64_t row = 0;
  for (; row + kRows <= a.share; row += kRows) {
    DecodeRows<kRows, kChunks>(a, row, first, last, sum, max, total);
  }
  if constexpr (kRows > 2) {
    if (a.share - row == 2) {
      DecodeRows<2, kChunks>(a, row, first, last, sum, max, total);
      row += 2;
    }
  }
  for (; row < a.share; ++row) {
    DecodeRows<1, kChunks>(a, row, first, last, sum, max, total);
  }
}

}  // namespace

// As many rows at a time as leave their sums in registers.
void DecodeKeys(const AttentionArgs& a, int64_t first, int64_t last, float* sum,
                float* max, float* total) {
  switch (a.head_dim / 64) {
    case 1:
      return a.share % 3 == 0 ? DecodeAll<3, 2>(a, first, last, sum, max, total)
                              : DecodeAll<4, 2>(a, first, last, sum, max, total);
    case 2:
      return DecodeAll<2, 4>(a, first, last, sum, max, total);
    case 3:
      return DecodeAll<1, 6>(a, first, last, sum, max, total);
    default:
      return DecodeAll<1, 8>(a, first, last, sum, max, total);
  }
}

}  // namespace quire::kernels::bf16

#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

// Building blocks of the AVX512-BF16 kernels. Include only from files that are compiled
// for AVX512-BF16 (their functions are reached through kernels' run-time dispatch).
//
// The one product everything is made of: C[rows, 64] += A[rows, K] B[K, 64], where B is a
// "panel": pairs of consecutive k for each of 64 columns, [K/2][64][2]. vdpbf16ps
// multiplies 16 columns by one broadcast pair of A, accumulating in float32.
namespace quire::kernels::bf16 {

using Bf16 = uint16_t;  // the bits of a bfloat16
inline constexpr int64_t kPanel = 64;
inline constexpr int kTileRows =
    6;  // 6 x 4 accumulators + 4 columns + 1 pair = 29 of 32 registers

template <int kRows>
struct Tile {
  __m512 sum[kRows][4];

  void Zero() {
    for (auto& row : sum) {
      for (__m512& s : row) s = _mm512_setzero_ps();
    }
  }
  // c: kRows rows of 64 floats, `stride` floats apart.
  void Load(const float* c, int64_t stride) {
    for (int r = 0; r < kRows; ++r) {
      for (int j = 0; j < 4; ++j) sum[r][j] = _mm512_loadu_ps(c + r * stride + 16 * j);
    }
  }
  void Scale(const float* factor) {
    for (int r = 0; r < kRows; ++r) {
      const __m512 f = _mm512_set1_ps(factor[r]);
      for (int j = 0; j < 4; ++j) sum[r][j] = _mm512_mul_ps(sum[r][j], f);
    }
  }
  void Store(float* c, int64_t stride) const {
    for (int r = 0; r < kRows; ++r) {
      for (int j = 0; j < 4; ++j) _mm512_storeu_ps(c + r * stride + 16 * j, sum[r][j]);
    }
  }
  // a: kRows rows, `stride` values apart; panel: `pairs` pairs of k.
  void Multiply(const Bf16* a, int64_t stride, const Bf16* panel, int64_t pairs) {
    for (int64_t p = 0; p < pairs; ++p, panel += 2 * kPanel) {
      __m512bh b[4];
      for (int j = 0; j < 4; ++j) b[j] = (__m512bh)_mm512_loadu_si512(panel + 32 * j);
      for (int r = 0; r < kRows; ++r) {
        int32_t pair;
        std::memcpy(&pair, a + r * stride + 2 * p, sizeof pair);
        const __m512bh x = (__m512bh)_mm512_set1_epi32(pair);
        for (int j = 0; j < 4; ++j) sum[r][j] = _mm512_dpbf16_ps(sum[r][j], x, b[j]);
      }
    }
  }
};

// Calls f.template operator()<n>() for the run-time row count 1 <= rows <= kTileRows.
template <typename F>
inline void WithRows(int64_t rows, F&& f) {
  switch (rows) {
    case 1:
      return f.template operator()<1>();
    case 2:
      return f.template operator()<2>();
    case 3:
      return f.template operator()<3>();
    case 4:
      return f.template operator()<4>();
    case 5:
      return f.template operator()<5>();
    default:
      return f.template operator()<6>();
  }
}

inline float ToFloat(Bf16 x) {
  const uint32_t bits = uint32_t{x} << 16;
  float f;
  std::memcpy(&f, &bits, sizeof f);
  return f;
}

// Rounds to the nearest, ties to even.
inline Bf16 FromFloat(float f) {
  return static_cast<Bf16>(_mm_extract_epi16((__m128i)_mm_cvtneps_pbh(_mm_set_ss(f)), 0));
}

inline void StoreBf16(Bf16* out, __m512 lo, __m512 hi) {
  _mm512_storeu_si512(out, (__m512i)_mm512_cvtne2ps_pbh(hi, lo));
}

// 2^x for x <= 0 (softmax): round to a whole n, 2^(x - n) by its Taylor series to the
// fifth order (relative error under 3e-6 for |x - n| <= 1/2), scaled by 2^n. -inf gives
// 0.
inline __m512 Exp2(__m512 x) {
  x = _mm512_max_ps(x, _mm512_set1_ps(-150.0f));
  const __m512 n = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const __m512 f = _mm512_sub_ps(x, n);
  __m512 p = _mm512_set1_ps(1.3333558e-3f);
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(9.6181291e-3f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(5.5504109e-2f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(2.4022651e-1f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(6.9314718e-1f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.0f));
  return _mm512_scalef_ps(p, n);
}

// Transposes 16 x 16 words of 32 bits: row i of `in` becomes column i.
inline void Transpose16(__m512i (&r)[16]) {
  __m512i t[16];
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
    r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
    r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
    r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
  for (int i = 0; i < 4; ++i) {
    t[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
    t[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd);
    t[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
    t[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
  }
  for (int i = 0; i < 4; ++i) {
    r[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
    r[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
    r[i + 4] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0x88);
    r[i + 12] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0xdd);
  }
}

}  // namespace quire::kernels::bf16

#include "core/kernels/cpu/bf16_kernels.h"
#include "core/kernels/cpu/bf16_tile.h"

namespace quire::kernels::bf16 {
namespace {

constexpr float kLog2E = 1.44269504f;

__m512 Widen(const Bf16* x) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(
      _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(x))),
      16));
}

// x / (1 + e^-x), through 2^-|x| so that Exp2's argument is never positive.
__m512 Silu(__m512 x) {
  const __m512 one = _mm512_set1_ps(1.0f);
  const __m512 e = Exp2(_mm512_mul_ps(_mm512_abs_ps(x), _mm512_set1_ps(-kLog2E)));
  const __mmask16 negative = _mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_LT_OQ);
  const __m512 top = _mm512_mask_mov_ps(one, negative, e);
  return _mm512_div_ps(_mm512_mul_ps(x, top), _mm512_add_ps(one, e));
}

}  // namespace

void SiluMulRows(const uint16_t* gate_up, int64_t rows, int64_t width, uint16_t* out) {
  for (int64_t r = 0; r < rows; ++r) {
    const Bf16* const gate = gate_up + r * 2 * width;
    for (int64_t i = 0; i < width; i += 16) {
      const __m512 y = _mm512_mul_ps(Silu(Widen(gate + i)), Widen(gate + width + i));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + r * width + i),
                          (__m256i)_mm512_cvtneps_pbh(y));
    }
  }
}

void RmsNormRows(const float* x, const float* weight, int64_t rows, int64_t width,
                 float eps, uint16_t* out) {
  for (int64_t r = 0; r < rows; ++r, x += width, out += width) {
    __m512 squares = _mm512_setzero_ps();
    for (int64_t i = 0; i < width; i += 16) {
      const __m512 v = _mm512_loadu_ps(x + i);
      squares = _mm512_fmadd_ps(v, v, squares);
    }
    const float mean = _mm512_reduce_add_ps(squares) / static_cast<float>(width);
    const __m512 inverse = _mm512_set1_ps(1.0f / __builtin_sqrtf(mean + eps));
    for (int64_t i = 0; i < width; i += 16) {
      const __m512 y = _mm512_mul_ps(_mm512_mul_ps(_mm512_loadu_ps(x + i), inverse),
                                     _mm512_loadu_ps(weight + i));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + i),
                          (__m256i)_mm512_cvtneps_pbh(y));
    }
  }
}

}  // namespace quire::kernels::bf16

#include "core/kernels/cpu/attention_tile_bf16.h"

namespace quire::kernels::bf16 {

int64_t PrefillScratchSize(int64_t rows, int64_t d) {
  return kKeyBlock * d + kGroupRows * kKeyBlock * 3 / 2 + rows * (d + 2);
}

void PrefillRows(const AttentionArgs& a, int64_t first, int64_t last, float* scratch) {
  const Scratch s = Carve(scratch, last - first, a.head_dim);
  StartRows(last - first, a.head_dim, s);
  AttendKeys(a, first, last, 0, PositionOf(a, last - 1) + 1, s);
  for (int64_t row = first; row < last; ++row) {
    WriteRow(a, row, s.sum + (row - first) * a.head_dim, s.total[row - first]);
  }
}

void MergeDecode(const AttentionArgs& a, int64_t parts, const float* sum,
                 const float* max, const float* total) {
  for (int64_t r = 0; r < a.share; ++r) {
    float high = max[r];
    for (int64_t p = 1; p < parts; ++p) high = Larger(max[p * a.share + r], high);
    alignas(64) float merged[kMaxHeadDim] = {};
    float all = 0;
    for (int64_t p = 0; p < parts; ++p) {
      const int64_t at = p * a.share + r;
      const float factor = _mm512_cvtss_f32(Exp2(_mm512_set1_ps(max[at] - high)));
      all += factor * total[at];
      const __m512 f = _mm512_set1_ps(factor);
      for (int64_t d = 0; d < a.head_dim; d += 16) {
        _mm512_store_ps(merged + d,
                        _mm512_fmadd_ps(_mm512_loadu_ps(sum + at * a.head_dim + d), f,
                                        _mm512_load_ps(merged + d)));
      }
    }
    WriteRow(a, r, merged, all);
  }
}

}  // namespace quire::kernels::bf16

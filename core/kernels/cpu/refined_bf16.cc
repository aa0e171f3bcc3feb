#include <x86intrin.h>

#include "core/kernels/cpu/refined_choice_bf16.h"

namespace quire::kernels::bf16 {
namespace {

// Columns [first, first + 64) become a panel of keys and one of values.
void PackColumns(const Task& t, int64_t first, int64_t count) {
  const auto row = [&](int64_t i, bool key) {
    if (first + i >= count) return kZeroRow;
    return key ? t.w.columns[first + i].key : t.w.columns[first + i].value;
  };
  const int64_t width = Min(kPanel, (count - first + 15) / 16 * 16);
  for (int64_t i = 0; i < width; i += 16) {
    PackKeyRows16([&](int64_t j) { return row(i + j, true); }, t.d(), t.w.near.keys, i);
    PackValueRows16([&](int64_t j) { return row(i + j, false); }, t.d(), t.w.near.values,
                    i);
  }
  for (int64_t i = width; i < kPanel; i += 16) {
    PackKeyRows16([&](int64_t) { return kZeroRow; }, t.d(), t.w.near.keys, i);
    PackValueRows16([&](int64_t) { return kZeroRow; }, t.d(), t.w.near.values, i);
  }
}

// A token's R rows take in its far columns.
void AttendColumns(const Task& t, int64_t row, int64_t count) {
  const AttentionArgs& a = t.a.base;
  for (int64_t first = 0; first < count; first += kPanel) {
    PackColumns(t, first, count);
    const int64_t width = Min(kPanel, count - first);
    alignas(64) float weight[kPanel];
    alignas(64) float certain[kPanel];
    for (int64_t i = 0; i < kPanel; ++i) {
      weight[i] = i < width ? t.w.columns[first + i].log2_weight : 0;
      certain[i] = i < width && weight[i] == 0 ? 1.0f : 0.0f;
    }
    Scores(a, t.first + row, t.share(), 1, t.w.near);
    float factor[kTaskRows];
    for (int64_t r = 0; r < t.share(); ++r) {
      float* const scores = t.w.near.scores + r * kKeyBlock;
      const __m512 scale = _mm512_set1_ps(1 / (a.scale * kLog2E));
      for (int64_t i = 0; i < kPanel; i += 16) {
        _mm512_storeu_ps(scores + i, _mm512_fmadd_ps(_mm512_load_ps(weight + i), scale,
                                                     _mm512_loadu_ps(scores + i)));
      }
      const int64_t own = row + r;
      factor[r] = Soften(a, scores, width, 1, t.w.near.weights + r * kKeyBlock,
                         t.w.near.max[own], t.w.near.total[own]);
      __m512 sure = _mm512_setzero_ps();
      for (int64_t i = 0; i < kPanel; i += 16) {
        const __m512i bits = _mm512_slli_epi32(
            _mm512_cvtepu16_epi32(_mm256_loadu_si256(
                (const __m256i*)(t.w.near.weights + r * kKeyBlock + i))),
            16);
        sure =
            _mm512_fmadd_ps(_mm512_castsi512_ps(bits), _mm512_load_ps(certain + i), sure);
      }
      t.w.certain[own] = t.w.certain[own] * factor[r] + _mm512_reduce_add_ps(sure);
    }
    AddValues(a, row, t.share(), 1, factor, t.w.near);
  }
}

void AttendNear(const Task& t, int64_t end, RefinedCounts& counts) {
  const AttentionArgs& a = t.a.base;
  StartRows(t.rows(), t.d(), t.w.near);
  AttendKeys(a, t.first, t.last, 0, kPage, t.w.near);
  AttendKeys(a, t.first, t.last, t.end * kPage, end, t.w.near);
  counts.near_keys += kPage + end - t.end * kPage;
  for (int64_t r = 0; r < t.rows(); ++r) {
    counts.near_columns += kPage + PositionOf(a, t.first + r) + 1 - t.end * kPage;
    t.w.certain[r] = t.w.near.total[r];
  }
}

void Finish(const Task& t, RefinedCounts& counts) {
  const float tau = _mm512_cvtss_f32(Exp2(_mm512_set1_ps(t.a.log2_tau)));
  for (int64_t r = 0; r < t.rows(); ++r) {
    const float share = t.w.certain[r] / t.w.near.total[r];
    const float covered = share < 1 ? share : 1;
    counts.coverage += covered;
    const __m512 risk = _mm512_set1_ps(tau * (1 - covered));
    counts.tail_risk += _mm512_cvtss_f32(_mm512_sqrt_ps(risk));
    WriteRow(t.a.base, t.first + r, t.w.near.sum + r * t.d(), t.w.near.total[r]);
  }
}

}  // namespace

int64_t RefinedTaskTokens(int64_t share) {
  int64_t tokens = 16;
  while (tokens > 1 && tokens * share > kTaskRows) tokens /= 2;
  return tokens;
}

int64_t RefinedScratchSize(int64_t positions, int64_t d) {
  Carver carver = {nullptr};
  Lay(carver, Pages(positions), d);
  return carver.used;
}

void RefinedTokens(const RefinedArgs& args, int64_t first, int64_t last, float* scratch,
                   RefinedCounts& counts, const ColumnRecorder& recorder) {
  const AttentionArgs& a = args.base;
  const int64_t end = PositionOf(a, last * a.share - 1) + 1;
  const int64_t pages = Pages(end);
  const int64_t window =
      Max(1, (PositionOf(a, first * a.share) - kRefinedWindow) / kPage);
  Carver carver = {scratch};
  const Task t = {args,   first * a.share, last * a.share,
                  window, pages,           Lay(carver, pages, a.head_dim)};
  const uint64_t began = __rdtsc();
  AttendNear(t, end, counts);
  const uint64_t near_done = __rdtsc();
  QuantizeQueries(t);
  ScoreMeans(t);
  ScorePages(t, counts);
  counts.selection_cycles += static_cast<int64_t>(__rdtsc() - near_done);
  for (int64_t row = 0; row < t.rows(); row += a.share) {
    const uint64_t choosing = __rdtsc();
    if (args.page_shares != nullptr &&
        PositionOf(a, t.first + row) >= args.page_shares_from) {
      AddPageShares(t, row);
    }
    int64_t count = Choose(t, row);
    if (args.group_means) count = AddRests(t, count);
    count = AddDropped(t, count);
    counts.selection_cycles += static_cast<int64_t>(__rdtsc() - choosing);
    counts.far_columns += count * a.share;
    counts.far_keys += count;
    if (recorder.call != nullptr) {
      recorder.call(recorder.context, first + row / a.share, t.w.columns, count);
    }
    AttendColumns(t, row, count);
  }
  Finish(t, counts);
  counts.cycles += static_cast<int64_t>(__rdtsc() - began);
}

}  // namespace quire::kernels::bf16

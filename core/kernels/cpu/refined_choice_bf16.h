#pragma once

#include "core/kernels/cpu/attention_tile_bf16.h"

// How refined attention's rows choose what they read (core/kernels/refined.h): scoring of
// the index, draws, and the list of columns. Include only from files that are compiled
// for AVX512-BF16.
namespace quire::kernels::bf16 {

inline constexpr int64_t kPage = kRefinedPage;
inline constexpr int64_t kTaskRows = kGroupRows;
inline constexpr int64_t kIndexRows = 4;
inline constexpr int32_t kOne =
    127 * 128;  // the bits of 1.0 as bfloat16: 128 log2 x + kOne

// The bits of a positive bfloat16 read as an integer are 128 (log2 x + 127), exactly at
// powers of two and by linear interpolation between. Shares of attention are kept that
// way: choosing what to read compares logarithms, adding them up needs no conversion.
struct Work {
  Scratch near;
  int8_t* q8;          // [rows][D]
  float* to_log2;      // [rows] 128 log2(e) scale * step of q8
  float* reference;    // [rows] log2 of the near part's sum
  int32_t* start;      // [rows] -8 sum of q8
  float* offsets;      // [rows][pages] 128 (mean's score - reference) + kOne
  float* sums;         // [rows][16] partial sums of the shares
  uint16_t* shares;    // [rows][pages * 64]: a page's keys in the order 0 16 1 17 ...
  float* certain;      // [rows] what was read for certain
  int32_t* keys;       // [64 * pages + 16] chosen
  int32_t* chances;    // of the same
  FarColumn* columns;  // [64 * pages + dropped]
  Bf16* means;         // [pages][2][D]
  Bf16* panels;        // [D][64]: a panel of keys or means
  uint8_t* codes;      // [D/4][64][4]: a page of the index, a code a byte
};

inline int64_t Pages(int64_t positions) { return (positions + kPage - 1) / kPage; }

// Cuts memory in parts of whole 64 bytes; without memory it only counts.
struct Carver {
  float* memory;
  int64_t used = 0;  // floats
  template <typename T>
  T* Take(int64_t count) {
    float* const part = memory == nullptr ? nullptr : memory + used;
    const int64_t bytes = (count * static_cast<int64_t>(sizeof(T)) + 63) / 64 * 64;
    used += bytes / static_cast<int64_t>(sizeof(float));
    return reinterpret_cast<T*>(part);
  }
};

inline Work Lay(Carver& carver, int64_t pages, int64_t d) {
  Work w;
  const int64_t rows = kTaskRows;
  float* const near = carver.Take<float>(PrefillScratchSize(rows, d));
  if (near != nullptr) w.near = Carve(near, rows, d);
  w.q8 = carver.Take<int8_t>(rows * d);
  w.to_log2 = carver.Take<float>(rows);
  w.reference = carver.Take<float>(rows);
  w.start = carver.Take<int32_t>(rows);
  w.offsets = carver.Take<float>(rows * (pages + kPage));
  w.sums = carver.Take<float>(rows * 16);
  w.shares = carver.Take<uint16_t>(rows * pages * kPage);
  w.certain = carver.Take<float>(rows);
  w.keys = carver.Take<int32_t>(pages * kPage + 16);
  w.chances = carver.Take<int32_t>(pages * kPage + 16);
  w.columns = carver.Take<FarColumn>(pages * (kPage + 1));
  w.means = carver.Take<Bf16>(pages * 2 * d);
  w.panels = carver.Take<Bf16>(kPanel * d);
  w.codes = carver.Take<uint8_t>(kPage * d);
  return w;
}

// Far pages [1, end) of a task, and where its things lie.
struct Task {
  const RefinedArgs& a;
  int64_t first, last;  // rows of q
  int64_t end;          // page of the window
  int64_t pages;        // stride of offsets and shares
  Work w;
  int64_t rows() const { return last - first; }
  int64_t share() const { return a.base.share; }
  int64_t d() const { return a.base.head_dim; }
  int64_t Block(int64_t page) const { return static_cast<int64_t>(a.base.blocks[page]); }
  int64_t Slot(int64_t page) const { return Block(page) * a.base.kv_heads + a.base.head; }
};

// Symmetric quantisation of each row of q to int8.
inline void QuantizeQueries(const Task& t) {
  const int64_t d = t.d();
  for (int64_t r = 0; r < t.rows(); ++r) {
    const Bf16* const q = t.a.base.q + (t.first + r) * d;
    __m512 high = _mm512_setzero_ps();
    const auto load = [&](int64_t i) {
      return _mm512_castsi512_ps(_mm512_slli_epi32(
          _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)(q + i))), 16));
    };
    for (int64_t i = 0; i < d; i += 16) {
      high = _mm512_max_ps(high, _mm512_abs_ps(load(i)));
    }
    const float step = Larger(_mm512_reduce_max_ps(high), 1e-20f) / 127;
    const __m512 inverse = _mm512_set1_ps(1 / step);
    __m512i sum = _mm512_setzero_si512();
    for (int64_t i = 0; i < d; i += 16) {
      const __m512i x = _mm512_cvtps_epi32(_mm512_mul_ps(load(i), inverse));
      sum = _mm512_add_epi32(sum, x);
      _mm_storeu_si128((__m128i*)(t.w.q8 + r * d + i), _mm512_cvtsepi32_epi8(x));
    }
    t.w.start[r] = -8 * _mm512_reduce_add_epi32(sum);
    t.w.to_log2[r] = step * t.a.base.scale * kLog2E * 128;
    t.w.reference[r] =
        t.w.near.max[r] +
        _mm512_cvtss_f32(_mm512_getexp_ps(_mm512_set1_ps(t.w.near.total[r])));
  }
}

// Sixteen pages' mean keys become columns of a panel.
inline void PackMeans16(const Task& t, int64_t page, int64_t column) {
  for (int64_t d = 0; d < t.d(); d += 32) {
    __m512i rows[16];
    for (int64_t i = 0; i < 16; ++i) {
      rows[i] = _mm512_setzero_si512();
      if (page + i >= t.end || t.Block(page + i) < 0) continue;
      const float* const mean = t.a.key_means + t.Slot(page + i) * t.d() + d;
      rows[i] =
          (__m512i)_mm512_cvtne2ps_pbh(_mm512_loadu_ps(mean + 16), _mm512_loadu_ps(mean));
    }
    Transpose16(rows);
    for (int64_t i = 0; i < 16; ++i) {
      _mm512_storeu_si512(t.w.panels + (d / 2 + i) * 2 * kPanel + 2 * column, rows[i]);
    }
  }
}

// offsets[row][page] of all far pages.
inline void ScoreMeans(const Task& t) {
  for (int64_t page = 0; page < t.end; page += kPanel) {
    for (int64_t i = 0; i < kPanel; i += 16) PackMeans16(t, page + i, i);
    for (int64_t r = 0; r < t.rows(); r += kTileRows) {
      WithRows(Min(kTileRows, t.rows() - r), [&]<int kRows>() {
        Tile<kRows> tile;
        tile.Zero();
        tile.Multiply(t.a.base.q + (t.first + r) * t.d(), t.d(), t.w.panels, t.d() / 2);
        const __m512 scale = _mm512_set1_ps(t.a.base.scale * kLog2E * 128);
        for (int i = 0; i < kRows; ++i) {
          const __m512 offset = _mm512_set1_ps(kOne - 128 * t.w.reference[r + i]);
          for (int j = 0; j < 4; ++j) {
            _mm512_storeu_ps(t.w.offsets + (r + i) * (t.pages + kPage) + page + 16 * j,
                             _mm512_fmadd_ps(tile.sum[i][j], scale, offset));
          }
        }
      });
    }
  }
}

// The codes of a page, one a byte: [D/4][64 keys][4 channels].
inline void Unpack(const Task& t, int64_t page) {
  const int64_t half = kPage * t.d() / 2;
  const uint8_t* const codes = t.a.codes + t.Slot(page) * half;
  const __m512i low = _mm512_set1_epi8(15);
  for (int64_t i = 0; i < half; i += 64) {
    const __m512i both = _mm512_loadu_si512(codes + i);
    _mm512_storeu_si512(t.w.codes + i, _mm512_and_si512(both, low));
    _mm512_storeu_si512(t.w.codes + half + i,
                        _mm512_and_si512(_mm512_srli_epi16(both, 4), low));
  }
}

// The unpacked page's keys against kRows rows, int8 products of codes and q8 -> dot
// [kRows][64]. kDim: D, or 0 if it is only known at run time. GCC 12 keeps the sums in
// registers only if this is a function of its own whose loops it can unroll.
template <int kRows, int64_t kDim>
__attribute__((noinline)) void Dots(const uint8_t* codes, const int8_t* q8,
                                    const int32_t* start, int64_t dim, int32_t* out) {
  const int64_t d = kDim != 0 ? kDim : dim;
  __m512i dot[kRows][4];
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < 4; ++v) dot[r][v] = _mm512_set1_epi32(start[r]);
  }
  for (int64_t c = 0; c < d; c += 4) {
    __m512i keys[4];
    for (int v = 0; v < 4; ++v) {
      keys[v] = _mm512_loadu_si512(codes + c * kPage + 64 * v);
    }
    for (int r = 0; r < kRows; ++r) {
      int32_t four;
      std::memcpy(&four, q8 + r * d + c, sizeof four);
      const __m512i x = _mm512_set1_epi32(four);
      for (int v = 0; v < 4; ++v) {
        dot[r][v] = _mm512_dpbusd_epi32(dot[r][v], keys[v], x);
      }
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < 4; ++v) {
      _mm512_store_si512(out + r * kPage + 16 * v, dot[r][v]);
    }
  }
}

// One row's shares of a page, and their sum.
inline void Shares(const int32_t* dot, const __m512 (&scales)[4], __m512 step,
                   __m512 offset, uint16_t* out, float* sums) {
  const __m512bh ones = (__m512bh)_mm512_set1_epi16(0x3f80);
  __m512i both[2];
  for (int half = 0; half < 2; ++half) {
    __m512i bits[2];
    for (int i = 0; i < 2; ++i) {
      const __m512 x =
          _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_load_si512(dot + 32 * half + 16 * i)),
                        scales[2 * half + i]);
      const __m512i y = _mm512_cvtps_epi32(_mm512_fmadd_ps(x, step, offset));
      bits[i] = _mm512_max_epi32(y, _mm512_setzero_si512());
    }
    both[half] = _mm512_or_si512(bits[0], _mm512_slli_epi32(bits[1], 16));
  }
  const __m512 sum = _mm512_dpbf16_ps(_mm512_loadu_ps(sums), (__m512bh)both[0], ones);
  _mm512_storeu_ps(sums, _mm512_dpbf16_ps(sum, (__m512bh)both[1], ones));
  _mm512_storeu_si512(out, both[0]);
  _mm512_storeu_si512(out + 32, both[1]);
}

template <int kRows>
void ScorePage(const Task& t, int64_t page, int64_t row) {
  alignas(64) int32_t dot[kRows * kPage];
  const int8_t* const q8 = t.w.q8 + row * t.d();
  if (t.d() == 64) {
    Dots<kRows, 64>(t.w.codes, q8, t.w.start + row, 64, dot);
  } else {
    Dots<kRows, 0>(t.w.codes, q8, t.w.start + row, t.d(), dot);
  }
  const float* const from = t.a.scales + t.Slot(page) * kPage;
  __m512 scales[4];
  for (int v = 0; v < 4; ++v) scales[v] = _mm512_loadu_ps(from + 16 * v);
  const int64_t stride = t.pages + kPage, step = t.pages * kPage;
  const float* const to_log2 = t.w.to_log2 + row;
  const float* const offsets = t.w.offsets + row * stride + page;
  float* const sums = t.w.sums + row * 16;
  uint16_t* const out = t.w.shares + row * step + page * kPage;
  for (int r = 0; r < kRows; ++r) {
    Shares(dot + r * kPage, scales, _mm512_set1_ps(to_log2[r]),
           _mm512_set1_ps(offsets[r * stride]), out + r * step, sums + 16 * r);
  }
}

// The cheap index: every key of a page has the share that its mean has.
inline void ShareEvenly(const Task& t, int64_t page, int64_t row) {
  const float offset = t.w.offsets[row * (t.pages + kPage) + page];
  alignas(64) static const float kEven[kPage] = {};
  alignas(64) static const int32_t kNone[kPage] = {};
  const __m512 even = _mm512_load_ps(kEven);
  const __m512 scales[4] = {even, even, even, even};
  Shares(kNone, scales, even, _mm512_set1_ps(offset),
         t.w.shares + (row * t.pages + page) * kPage, t.w.sums + row * 16);
}

inline void ScorePages(const Task& t, RefinedCounts& counts) {
  for (int64_t i = 0; i < t.rows() * 16; ++i) t.w.sums[i] = 0;
  for (int64_t page = 1; page < t.end; ++page) {
    counts.index_means += t.rows();
    ++counts.mean_pages;
    if (t.Block(page) < 0) {
      for (int64_t r = 0; r < t.rows(); ++r) {
        uint16_t* const out = t.w.shares + (r * t.pages + page) * kPage;
        for (int64_t i = 0; i < kPage; i += 32) {
          _mm512_storeu_si512(out + i, _mm512_setzero_si512());
        }
      }
      continue;
    }
    if (t.a.page_means_only) {
      for (int64_t r = 0; r < t.rows(); ++r) ShareEvenly(t, page, r);
      continue;
    }
    Unpack(t, page);
    ++counts.index_pages;
    counts.index_columns += t.rows() * kPage;
    for (int64_t r = 0; r < t.rows(); r += kIndexRows) {
      WithRows(Min(kIndexRows, t.rows() - r),
               [&]<int kRows>() { ScorePage<kRows>(t, page, r); });
    }
  }
}

// Sum of a row's shares, near and far, relative to its reference.
inline float AllShares(const Task& t, int64_t row) {
  const float far = _mm512_reduce_add_ps(_mm512_loadu_ps(t.w.sums + row * 16));
  const __m512 change = _mm512_set1_ps(t.w.near.max[row] - t.w.reference[row]);
  return far + t.w.near.total[row] * _mm512_cvtss_f32(Exp2(change));
}

// 128 log2 of the share's largest value over the rows, relative to tau, is the share's
// bits plus this.
inline int16_t BitsToChance(const Task& t, int64_t row) {
  const __m512 all = _mm512_set1_ps(AllShares(t, row));
  // log2 by exponent and mantissa, linear as the shares themselves.
  const __m512 exponent = _mm512_getexp_ps(all);
  const __m512 mantissa = _mm512_getmant_ps(all, _MM_MANT_NORM_1_2, _MM_MANT_SIGN_zero);
  const float log2 = _mm512_cvtss_f32(exponent) + _mm512_cvtss_f32(mantissa) - 1;
  const float x = -128 * (log2 + t.a.log2_tau) - kOne;
  return static_cast<int16_t>(x > 32767 ? 32767 : x < -32768 ? -32768 : x);
}

// Adds the pages' shares of token `row / R`.
inline void AddPageShares(const Task& t, int64_t row) {
  const __m512bh ones = (__m512bh)_mm512_set1_epi16(0x3f80);
  float inverse[kTaskRows];
  for (int64_t r = 0; r < t.share(); ++r) inverse[r] = 1 / AllShares(t, row + r);
  for (int64_t page = 1; page < t.end; ++page) {
    float largest = 0;
    for (int64_t r = 0; r < t.share(); ++r) {
      const uint16_t* const shares = t.w.shares + ((row + r) * t.pages + page) * kPage;
      __m512 sum = _mm512_setzero_ps();
      for (int64_t i = 0; i < kPage; i += 32) {
        sum = _mm512_dpbf16_ps(sum, (__m512bh)_mm512_loadu_si512(shares + i), ones);
      }
      largest = Larger(largest, inverse[r] * _mm512_reduce_add_ps(sum));
    }
    t.a.page_shares[page] += largest;
  }
}

// log2 of one over the probability that a key with this chance was drawn: draws are
// rounded to whole numbers, so a chance c beats them with probability 2^((c - 1/2)/128).
inline float Log2Weight(int32_t chance) {
  return chance >= 1 ? 0.0f : (0.5f - static_cast<float>(chance)) / 128;
}

inline void Prefetch(const Bf16* row, int64_t d) {
  for (int64_t i = 0; i < d; i += 32) _mm_prefetch(row + i, _MM_HINT_T0);
}

// The chosen keys as columns, on their way to the cache.
inline int64_t ListColumns(const Task& t, int64_t count) {
  const int64_t d = t.d();
  for (int64_t i = 0; i < count; ++i) {
    const int64_t key = t.w.keys[i];
    const int64_t at = (t.Slot(key / kPage) * kPage + key % kPage) * d;
    t.w.columns[i] = {t.a.base.k + at, t.a.base.v + at, Log2Weight(t.w.chances[i]),
                      static_cast<int32_t>(key), false};
    Prefetch(t.a.base.k + at, d);
    Prefetch(t.a.base.v + at, d);
  }
  return count;
}

// Where Choose writes: keys and their chances, one after the other.
struct Chosen {
  int32_t* keys;
  int32_t* chances;
  int64_t count = 0;

  // Of keys [first, first + 32), of which lane i of 16 holds key i in its low half and
  // key i + 16 in its high half, those that beat their draw.
  void Add(int64_t first, __m512i chance, __m512i draw) {
    const __m512i lanes =
        _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    const auto low = [](__m512i x) {
      return _mm512_srai_epi32(_mm512_slli_epi32(x, 16), 16);
    };
    const auto high = [](__m512i x) { return _mm512_srai_epi32(x, 16); };
    const __m512i key =
        _mm512_add_epi32(lanes, _mm512_set1_epi32(static_cast<int>(first)));
    AddLanes(key, low(chance), low(draw));
    AddLanes(_mm512_add_epi32(key, _mm512_set1_epi32(16)), high(chance), high(draw));
  }

 private:
  void AddLanes(__m512i key, __m512i chance, __m512i draw) {
    const __mmask16 wins = _mm512_cmpgt_epi32_mask(chance, draw);
    _mm512_storeu_si512(keys + count, _mm512_maskz_compress_epi32(wins, key));
    _mm512_storeu_si512(chances + count, _mm512_maskz_compress_epi32(wins, chance));
    count += __builtin_popcount(wins);
  }
};

// The far tokens that token `row / R` reads; returns how many.
inline int64_t Choose(const Task& t, int64_t row) {
  const int64_t share = t.share(), step = t.pages * kPage;
  __m512i add[kTaskRows];
  for (int64_t r = 0; r < share; ++r) {
    add[r] = _mm512_set1_epi16(BitsToChance(t, row + r));
  }
  const uint32_t start = t.a.draw_starts[(t.first + row) / share];
  const int16_t* const draws = t.a.draws;
  const bool sampled = !t.a.group_means;
  const uint16_t* const shares = t.w.shares + row * step;
  Chosen chosen = {t.w.keys, t.w.chances};
  for (int64_t i = kPage; i < t.end * kPage; i += 32) {
    __m512i chance = _mm512_adds_epi16(_mm512_loadu_si512(shares + i), add[0]);
    for (int64_t r = 1; r < share; ++r) {
      chance = _mm512_max_epi16(
          chance, _mm512_adds_epi16(_mm512_loadu_si512(shares + r * step + i), add[r]));
    }
    const __m512i draw = sampled ? _mm512_loadu_si512(draws + (start + i) % kRefinedDraws)
                                 : _mm512_setzero_si512();
    if (_mm512_cmpgt_epi16_mask(chance, draw) == 0) continue;
    if (t.Block(i / kPage) >= 0) chosen.Add(i, chance, draw);
  }
  return ListColumns(t, chosen.count);
}

// What is left of each page after the chosen columns, which are in order, as one column.
inline int64_t AddRests(const Task& t, int64_t count) {
  const int64_t chosen = count;
  int64_t next = 0;
  for (int64_t page = 1; page < t.end; ++page) {
    if (t.Block(page) < 0) continue;
    const int64_t begin = next;
    while (next < chosen && t.w.columns[next].position / kPage == page) ++next;
    const int64_t left = kPage - (next - begin);
    if (left == 0) continue;
    const __m512 inverse = _mm512_set1_ps(1.0f / static_cast<float>(left));
    Bf16* const mean = t.w.means + page * 2 * t.d();
    for (int side = 0; side < 2; ++side) {
      const float* const whole =
          (side == 0 ? t.a.key_means : t.a.value_means) + t.Slot(page) * t.d();
      for (int64_t d = 0; d < t.d(); d += 32) {
        __m512 sum[2];
        for (int h = 0; h < 2; ++h) {
          sum[h] =
              _mm512_mul_ps(_mm512_loadu_ps(whole + d + 16 * h), _mm512_set1_ps(kPage));
          for (int64_t i = begin; i < next; ++i) {
            const Bf16* const x =
                (side == 0 ? t.w.columns[i].key : t.w.columns[i].value) + d + 16 * h;
            const __m512i wide = _mm512_slli_epi32(
                _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)x)), 16);
            sum[h] = _mm512_sub_ps(sum[h], _mm512_castsi512_ps(wide));
          }
          sum[h] = _mm512_mul_ps(sum[h], inverse);
        }
        StoreBf16(mean + side * t.d() + d, sum[0], sum[1]);
      }
    }
    t.w.columns[count++] = {mean, mean + t.d(), t.a.log2_counts[left],
                            static_cast<int32_t>(page * kPage), true};
  }
  return count;
}

inline int64_t AddDropped(const Task& t, int64_t count) {
  for (int64_t i = 0; i < t.a.dropped; ++i) {
    if (t.a.dropped_pages[i] >= t.end) break;
    const int64_t at = (i * t.a.base.kv_heads + t.a.base.head) * t.d();
    t.w.columns[count++] = {t.a.dropped_keys + at, t.a.dropped_values + at, 6.0f,
                            static_cast<int32_t>(t.a.dropped_pages[i] * kPage), true};
  }
  return count;
}

}  // namespace quire::kernels::bf16

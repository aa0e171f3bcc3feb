#include "core/kernels/cpu/bf16_kernels.h"
#include "core/kernels/cpu/bf16_tile.h"

namespace quire::kernels::bf16 {
namespace {

// A slice of a panel that stays in the first-level cache (24 KiB) while all rows pass by,
// and as many rows as leave their float32 sums in the second-level cache.
constexpr int64_t kSlicePairs = 96;
constexpr int64_t kRowBlock = 240;

int64_t Min(int64_t a, int64_t b) { return a < b ? a : b; }

__mmask16 ColumnMask(int64_t columns) {
  return columns >= 16 ? 0xffff
                       : static_cast<__mmask16>((1u << (columns < 0 ? 0 : columns)) - 1);
}

struct Panel {
  const Bf16* weight;  // [in / 2][64][2]
  int64_t first_column;
  int64_t columns;  // valid ones of the 64
};

__m512 Bias(const LinearArgs& args, const Panel& panel, int j) {
  if (args.bias == nullptr) return _mm512_setzero_ps();
  return _mm512_maskz_loadu_ps(ColumnMask(panel.columns - 16 * j),
                               args.bias + panel.first_column + 16 * j);
}

// Writes 16 finished columns of one row.
void StoreColumns(const LinearArgs& args, const Panel& panel, int64_t row, int j,
                  __m512 value) {
  const __mmask16 mask = ColumnMask(panel.columns - 16 * j);
  const int64_t at = row * args.out + panel.first_column + 16 * j;
  value = _mm512_add_ps(value, Bias(args, panel, j));
  switch (args.store) {
    case Store::kBFloat16:
      _mm256_mask_storeu_epi16(static_cast<Bf16*>(args.y) + at, mask,
                               (__m256i)_mm512_cvtneps_pbh(value));
      return;
    case Store::kAddFloat32:
      value = _mm512_add_ps(
          value, _mm512_maskz_loadu_ps(mask, static_cast<float*>(args.y) + at));
      [[fallthrough]];
    case Store::kFloat32:
      _mm512_mask_storeu_ps(static_cast<float*>(args.y) + at, mask, value);
      return;
  }
}

// rows [row, row + block) of one panel; sums: [block, 64] scratch.
void PanelRows(const LinearArgs& args, const Panel& panel, int64_t row, int64_t block,
               float* sums) {
  const int64_t pairs = args.in / 2;
  // Tiles of nearly the same height: one of six and one of two take twice as long as two
  // of four.
  const int64_t tiles = (block + kTileRows - 1) / kTileRows;
  const int64_t height = (block + tiles - 1) / tiles;
  for (int64_t p = 0; p < pairs; p += kSlicePairs) {
    const int64_t slice = Min(kSlicePairs, pairs - p);
    for (int64_t r = 0; r < block; r += height) {
      WithRows(Min(height, block - r), [&]<int kRows>() {
        Tile<kRows> tile;
        if (p == 0) {
          tile.Zero();
        } else {
          tile.Load(sums + r * kPanel, kPanel);
        }
        tile.Multiply(args.x + (row + r) * args.in + 2 * p, args.in,
                      panel.weight + p * 2 * kPanel, slice);
        tile.Store(sums + r * kPanel, kPanel);
      });
    }
  }
  for (int64_t r = 0; r < block; ++r) {
    for (int j = 0; j < 4 && 16 * j < panel.columns; ++j) {
      StoreColumns(args, panel, row + r, j, _mm512_loadu_ps(sums + r * kPanel + 16 * j));
    }
  }
}

}  // namespace

int64_t PackedSize(int64_t out, int64_t in) {
  return (out + kPanel - 1) / kPanel * kPanel * in;
}

void PackPanels(const float* weight, int64_t out, int64_t in, int64_t first, int64_t last,
                uint16_t* packed) {
  for (int64_t panel = first; panel < last; ++panel) {
    Bf16* const to = packed + panel * kPanel * in;
    for (int64_t c = 0; c < kPanel; ++c) {
      const int64_t row = panel * kPanel + c;
      for (int64_t i = 0; i < in; ++i) {
        to[i / 2 * 2 * kPanel + 2 * c + i % 2] =
            row < out ? FromFloat(weight[row * in + i]) : 0;
      }
    }
  }
}

void UnpackRow(const uint16_t* packed, int64_t in, int64_t row, float* out) {
  const Bf16* from = packed + row / kPanel * kPanel * in + 2 * (row % kPanel);
  for (int64_t i = 0; i < in; i += 2, from += 2 * kPanel) {
    out[i] = ToFloat(from[0]);
    out[i + 1] = ToFloat(from[1]);
  }
}

void LinearPanels(const LinearArgs& args, int64_t first, int64_t last) {
  alignas(64) float sums[kRowBlock * kPanel];
  for (int64_t p = first; p < last; ++p) {
    const Panel panel = {args.packed + p * kPanel * args.in, p * kPanel,
                         Min(kPanel, args.out - p * kPanel)};
    for (int64_t row = 0; row < args.rows; row += kRowBlock) {
      PanelRows(args, panel, row, Min(kRowBlock, args.rows - row), sums);
    }
  }
}

}  // namespace quire::kernels::bf16

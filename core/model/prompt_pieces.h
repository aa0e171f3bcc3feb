#pragma once

#include <cstdint>

namespace quire {

// How dense attention of a prompt's chunk is cut on a GPU, so that cuDNN, which makes a
// plan of some 55 ms (H200) for each shape that is new to it, sees few of them: always as
// many rows, over a multiple of as many tokens that were before. Flash attention needs no
// plan and reads the rest, and all of a short chunk. (Fewer shapes still, of powers of
// two, would need more parts, each of which is rounded to bfloat16: of 64 facts hidden in
// 16K and 30K tokens 2 and 3 fewer were found.) Host only.

// Rows are read so many at a time, a tile. What cuDNN reads of the tokens before it is a
// multiple of this.
inline constexpr int64_t kPromptTileRows = 2048;

// The most tokens before a tile for which plans are made ahead.
inline constexpr int64_t kLongestPlannedPiece = 32 << 10;

// Rows that a tile is padded to for cuDNN; 0: flash attention is faster, since cuDNN is
// at most 1.8 times as fast (H200). REQUIRES: 0 < rows <= kPromptTileRows.
constexpr int64_t PaddedPromptRows(int64_t rows) {
  return 8 * rows >= 5 * kPromptTileRows ? kPromptTileRows : 0;
}

// Of `before` tokens the first ones that cuDNN reads. What it leaves is shorter than a
// tile, unless the tile is not padded.
constexpr int64_t PromptPiece(int64_t before, int64_t padded_rows) {
  return padded_rows == 0 ? 0 : before / kPromptTileRows * kPromptTileRows;
}

}  // namespace quire

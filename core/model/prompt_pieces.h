#pragma once

#include <bit>
#include <cstdint>
#include <vector>

namespace quire {

// How dense attention of a prompt's chunk is cut on a GPU, so that cuDNN, which makes a
// plan of some 55 ms (H200) for each shape that is new to it, sees few of them: calls of
// one or two numbers of rows, over pieces of what was before the chunk whose lengths are
// powers of two. Flash attention needs no plan and reads the rest, and all of a short
// chunk. Host only.

// Rows are read so many at a time, a tile.
inline constexpr int64_t kPromptTileRows = 2048;
// The least piece for cuDNN, a multiple of a cache block.
inline constexpr int64_t kLeastPromptPiece = 2048;

// The rows of cuDNN's calls; and the longest piece for which plans are made ahead.
inline constexpr int64_t kCudnnPromptRows[] = {kPromptTileRows, kPromptTileRows / 2};
inline constexpr int64_t kLongestPlannedPiece = 64 << 10;

// Rows that a tile is padded to for cuDNN; 0: flash attention is faster, since cuDNN is
// at most 1.8 times as fast (H200). REQUIRES: 0 < rows <= kPromptTileRows.
constexpr int64_t PaddedPromptRows(int64_t rows) {
  const int64_t size =
      rows <= kPromptTileRows / 2 ? kPromptTileRows / 2 : kPromptTileRows;
  return 8 * rows >= 5 * size ? size : 0;
}

// Lengths of the pieces that cuDNN reads of `before` tokens, from the first token on:
// powers of two from the largest down, at most 6 for 128K tokens. What they leave is
// shorter than kLeastPromptPiece, unless there are none because the tile is not padded.
inline std::vector<int64_t> PromptPieces(int64_t before, int64_t padded_rows) {
  std::vector<int64_t> pieces;
  if (padded_rows == 0) return pieces;
  while (before >= kLeastPromptPiece) {
    pieces.push_back(static_cast<int64_t>(std::bit_floor(static_cast<uint64_t>(before))));
    before -= pieces.back();
  }
  return pieces;
}

}  // namespace quire

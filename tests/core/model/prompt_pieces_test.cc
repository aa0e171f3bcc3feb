#include "core/model/prompt_pieces.h"

#include <gtest/gtest.h>

#include <set>
#include <utility>

namespace quire {
namespace {

TEST(PaddedPromptRowsTest, NeverCostsMoreThanFlashAttention) {
  for (int64_t rows = 1; rows <= kPromptTileRows; ++rows) {
    const int64_t padded = PaddedPromptRows(rows);
    if (padded == 0) continue;
    EXPECT_GE(padded, rows);
    EXPECT_LE(5 * padded, 8 * rows);
  }
  EXPECT_EQ(PaddedPromptRows(1), 0);
  EXPECT_EQ(PaddedPromptRows(1279), 0);
  EXPECT_EQ(PaddedPromptRows(1280), 2048);
  EXPECT_EQ(PaddedPromptRows(2048), 2048);
}

TEST(PromptPieceTest, LeavesLessThanATile) {
  for (int64_t before = 0; before < 128 << 10; before += 61) {
    const int64_t piece = PromptPiece(before, kPromptTileRows);
    EXPECT_GE(before - piece, 0);
    EXPECT_LT(before - piece, kPromptTileRows);
    EXPECT_EQ(PromptPiece(before, 0), 0);
  }
  EXPECT_EQ(PromptPiece(26'624, 2048), 26'624);
  EXPECT_EQ(PromptPiece(26'623, 2048), 24'576);
}

// What this is for: whatever prompts come, and wherever their chunks begin.
TEST(PromptPieceTest, ShapesAreThoseThatPlansAreMadeFor) {
  std::set<std::pair<int64_t, int64_t>> shapes;
  for (int64_t before = 0; before < kLongestPlannedPiece + kPromptTileRows; before += 7) {
    for (int64_t rows = 1; rows <= kPromptTileRows; rows += 63) {
      const int64_t padded = PaddedPromptRows(rows);
      const int64_t piece = PromptPiece(before, padded);
      if (piece > 0) shapes.emplace(padded, piece);
    }
  }
  EXPECT_EQ(shapes.size(), kLongestPlannedPiece / kPromptTileRows);
  EXPECT_EQ(shapes.rbegin()->second, kLongestPlannedPiece);
}

}  // namespace
}  // namespace quire

#include "core/model/prompt_pieces.h"

#include <gtest/gtest.h>

#include <numeric>
#include <set>
#include <utility>

namespace quire {
namespace {

constexpr int64_t kLongest = 128 << 10;

TEST(PaddedPromptRowsTest, NeverCostsMoreThanFlashAttention) {
  for (int64_t rows = 1; rows <= kPromptTileRows; ++rows) {
    const int64_t padded = PaddedPromptRows(rows);
    if (padded == 0) continue;
    EXPECT_GE(padded, rows);
    EXPECT_LE(5 * padded, 8 * rows);
  }
  EXPECT_EQ(PaddedPromptRows(1), 0);
  EXPECT_EQ(PaddedPromptRows(639), 0);
  EXPECT_EQ(PaddedPromptRows(640), 1024);
  EXPECT_EQ(PaddedPromptRows(1024), 1024);
  EXPECT_EQ(PaddedPromptRows(1025), 0);
  EXPECT_EQ(PaddedPromptRows(1279), 0);
  EXPECT_EQ(PaddedPromptRows(1280), 2048);
  EXPECT_EQ(PaddedPromptRows(2048), 2048);
}

TEST(PromptPiecesTest, LeaveLittleAndAreFew) {
  for (int64_t before = 0; before < kLongest; before += 61) {
    const std::vector<int64_t> pieces = PromptPieces(before, 2048);
    EXPECT_LE(pieces.size(), 6u);
    const int64_t rest =
        before - std::accumulate(pieces.begin(), pieces.end(), int64_t{0});
    EXPECT_GE(rest, 0);
    EXPECT_LT(rest, kLeastPromptPiece);
    for (size_t i = 1; i < pieces.size(); ++i) EXPECT_LT(pieces[i], pieces[i - 1]);
  }
  EXPECT_EQ(PromptPieces(26'624, 2048), (std::vector<int64_t>{16'384, 8192, 2048}));
  EXPECT_TRUE(PromptPieces(26'624, 0).empty());
  EXPECT_TRUE(PromptPieces(2047, 2048).empty());
}

// What this is for: whatever prompts come, and wherever their chunks begin.
TEST(PromptPiecesTest, ShapesAreAHandful) {
  std::set<std::pair<int64_t, int64_t>> shapes;
  for (int64_t before = 0; before < kLongest; before += 7) {
    for (int64_t rows = 1; rows <= kPromptTileRows; rows += 63) {
      const int64_t padded = PaddedPromptRows(rows);
      for (const int64_t piece : PromptPieces(before, padded)) {
        shapes.emplace(padded, piece);
      }
    }
  }
  EXPECT_EQ(shapes.size(), 2u * 6u);
  // Of a prompt that is read in whole tiles, but for the last one:
  shapes.clear();
  for (int64_t before = 0; before < 28'017; before += kPromptTileRows) {
    const int64_t padded = PaddedPromptRows(std::min(kPromptTileRows, 28'017 - before));
    for (const int64_t piece : PromptPieces(before, padded)) {
      shapes.emplace(padded, piece);
    }
  }
  EXPECT_EQ(shapes.size(), 4u);
}

}  // namespace
}  // namespace quire

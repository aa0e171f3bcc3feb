#include "core/dga/probe_positions.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace quire {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

TEST(ProbePositionsTest, EveryThirtySecondPosition) {
  EXPECT_THAT(ProbedRows(0, 100, false), ElementsAre(31, 63, 95));
  EXPECT_THAT(ProbedRows(31, 2, false), ElementsAre(0));
  EXPECT_THAT(ProbedRows(32, 31, false), IsEmpty());
  EXPECT_THAT(ProbedRows(32, 32, false), ElementsAre(31));
}

TEST(ProbePositionsTest, TheLastRowOfAPromptOnce) {
  EXPECT_THAT(ProbedRows(0, 1, true), ElementsAre(0));
  EXPECT_THAT(ProbedRows(0, 40, true), ElementsAre(31, 39));
  EXPECT_THAT(ProbedRows(0, 32, true), ElementsAre(31));
  EXPECT_THAT(ProbedRows(5, 0, true), IsEmpty());
}

TEST(ProbePositionsTest, ChunksChangeNothing) {
  for (const int64_t chunk : {1, 7, 32, 33, 512}) {
    std::vector<int64_t> positions;
    for (Position begin = 0; begin < 700; begin += static_cast<Position>(chunk)) {
      const int64_t rows = std::min<int64_t>(chunk, 700 - begin);
      for (const int64_t row : ProbedRows(begin, rows, begin + rows == 700)) {
        positions.push_back(begin + row);
      }
    }
    EXPECT_EQ(positions, ProbedRows(0, 700, true)) << "chunk " << chunk;
  }
}

}  // namespace
}  // namespace quire

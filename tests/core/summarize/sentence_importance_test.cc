#include "core/summarize/sentence_importance.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace quire {
namespace {

using ::testing::DoubleEq;
using ::testing::Each;
using ::testing::ElementsAre;

constexpr int64_t kTokens = 4;  // of a sentence

std::vector<Sentence> Sentences(int64_t count) {
  std::vector<Sentence> sentences(count);
  for (int64_t i = 0; i < count; ++i) {
    sentences[i].span = {i * kTokens, (i + 1) * kTokens};
  }
  return sentences;
}

// A byte each.
std::vector<TokenReading> Tokens(const std::vector<float>& importance) {
  std::vector<TokenReading> tokens;
  for (size_t i = 0; i < importance.size(); ++i) {
    const auto at = static_cast<int64_t>(i);
    tokens.push_back({.span = {at, at + 1}, .importance = importance[i]});
  }
  return tokens;
}

TEST(RankByImportanceTest, MoreAttentionIsAHigherRank) {
  EXPECT_THAT(RankByImportance(Sentences(4), Tokens({1, 1, 1, 1,   //
                                                     1, 8, 1, 1,   //
                                                     1, 1, 1, .5,  //
                                                     2, 2, 2, 2})),
              ElementsAre(.375, .625, .125, .875));
}

TEST(RankByImportanceTest, EqualsShareARankAndUnknownIsTheMiddle) {
  EXPECT_THAT(
      RankByImportance(Sentences(3), Tokens({1, 1, 1, 1, 1, 1, 1, 1, 2, 1, 1, 1})),
      ElementsAre(DoubleEq(1 / 3.0), DoubleEq(1 / 3.0), DoubleEq(5 / 6.0)));
  EXPECT_THAT(RankByImportance(Sentences(5), Tokens(std::vector<float>(20))), Each(.5));
  EXPECT_THAT(RankByImportance(Sentences(5), {}), Each(.5));
}

// One with a token of unknown importance is judged by the others.
TEST(RankByImportanceTest, TokensWithoutImportanceDoNotCount) {
  EXPECT_THAT(
      RankByImportance(Sentences(3), Tokens({2, 2, 2, 0, 3, 3, 0, 0, 1, 1, 1, 1})),
      ElementsAre(.5, DoubleEq(5 / 6.0), DoubleEq(1 / 6.0)));
}

// A tenfold level of the text's first half changes no order within either half, and its
// lower sentences stay below the upper ones of the second half.
TEST(RankByImportanceTest, TheLevelOfTheSurroundingsDoesNotCount) {
  constexpr int64_t kHalf = 512;  // sentences
  std::vector<float> importance;
  for (int64_t s = 0; s < 2 * kHalf; ++s) {
    const float level = s < kHalf ? 10.0f : 1.0f;
    importance.insert(importance.end(), kTokens, level * (s % 2 == 0 ? 1.0f : 2.0f));
  }
  const std::vector<double> ranks =
      RankByImportance(Sentences(2 * kHalf), Tokens(importance));
  EXPECT_LT(ranks[100], ranks[101]);
  EXPECT_EQ(ranks[100], ranks[kHalf + 200]);
  EXPECT_EQ(ranks[101], ranks[kHalf + 201]);
}

}  // namespace
}  // namespace quire

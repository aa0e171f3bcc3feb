#include "client/cli/word_wrap.h"

#include <gtest/gtest.h>

#include <string>

namespace quire::cli {
namespace {

std::string Wrap(int columns, std::string_view text) {
  WordWrap wrap(columns);
  const std::string out = wrap.Add(text);
  return out + wrap.Flush();
}

TEST(WordWrapTest, BreaksBetweenWords) {
  EXPECT_EQ(Wrap(10, "The quick brown fox"), "The quick\nbrown fox");
  EXPECT_EQ(Wrap(9, "The quick brown fox"), "The quick\nbrown fox");
  EXPECT_EQ(Wrap(8, "The quick brown fox"), "The\nquick\nbrown\nfox");
  EXPECT_EQ(Wrap(100, "The quick brown fox"), "The quick brown fox");
}

TEST(WordWrapTest, KeepsLinesAndIndentation) {
  EXPECT_EQ(Wrap(10, "one\n\n  two\n"), "one\n\n  two\n");
  EXPECT_EQ(Wrap(10, "end  \nnext "), "end\nnext ");
}

TEST(WordWrapTest, AnyCutIntoPiecesGivesTheSame) {
  const std::string text = "One caf\xC3\xA9 two  three\nfour fivesixseven eight";
  const std::string whole = Wrap(9, text);
  WordWrap wrap(9);
  std::string pieces;
  for (size_t i = 0; i < text.size(); ++i) {
    const size_t size = text[i] == '\xC3' ? 2 : 1;
    pieces += wrap.Add(std::string_view(text).substr(i, size));
    i += size - 1;
  }
  EXPECT_EQ(pieces + wrap.Flush(), whole);
}

TEST(WordWrapTest, OnlyTheUnfinishedWordIsHeldBack) {
  WordWrap wrap(20);
  EXPECT_EQ(wrap.Add("The qu"), "The");
  EXPECT_EQ(wrap.Add("ick "), " quick");
  EXPECT_EQ(wrap.Flush(), " ");
}

TEST(WordWrapTest, WordsLongerThanALineAreCut) {
  EXPECT_EQ(Wrap(4, "abcdefghij"), "abcd\nefgh\nij");
}

TEST(WordWrapTest, WideCharactersBreakAnywhereAndTakeTwoColumns) {
  EXPECT_EQ(Wrap(6, "\u4E2D\u6587\u4E2D\u6587"), "\u4E2D\u6587\u4E2D\n\u6587");
  WordWrap wrap(6);
  EXPECT_EQ(wrap.Add("\u4E2D\u6587"), "\u4E2D");
}

TEST(WordWrapTest, CombiningMarksTakeNoColumn) {
  EXPECT_EQ(Wrap(4, "e\u0301e\u0301 ab"), "e\u0301e\u0301\nab");
  EXPECT_EQ(Wrap(5, "e\u0301e\u0301 ab"), "e\u0301e\u0301 ab");
}

}  // namespace
}  // namespace quire::cli

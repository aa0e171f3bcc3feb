#include "client/cli/utf8.h"

#include <gtest/gtest.h>

#include <string>

namespace quire::cli {
namespace {

TEST(Utf8Test, WellFormedTextHasNoBadByte) {
  EXPECT_EQ(FirstInvalidUtf8(""), std::nullopt);
  EXPECT_EQ(FirstInvalidUtf8("plain"), std::nullopt);
  EXPECT_EQ(FirstInvalidUtf8(std::string("\0", 1)), std::nullopt);
  // First and last character of every size, and around the surrogates.
  EXPECT_EQ(FirstInvalidUtf8("\x7F\xC2\x80\xDF\xBF\xE0\xA0\x80\xED\x9F\xBF\xEE\x80\x80"
                             "\xEF\xBF\xBF\xF0\x90\x80\x80\xF4\x8F\xBF\xBF"),
            std::nullopt);
}

struct BadText {
  std::string text;
  size_t offset;
};

class BadTextTest : public ::testing::TestWithParam<BadText> {};

TEST_P(BadTextTest, FirstBadByteIsFound) {
  EXPECT_EQ(FirstInvalidUtf8(GetParam().text), GetParam().offset);
}

INSTANTIATE_TEST_SUITE_P(
    All, BadTextTest,
    ::testing::Values(BadText{"caf\xE9", 3},           // Latin-1
                      BadText{"\xFF\xFEh", 0},         // UTF-16 mark
                      BadText{"a\x80", 1},             // continuation alone
                      BadText{"ab\xC0\xAF", 2},        // overlong /
                      BadText{"\xC1\xBF", 0},          // overlong
                      BadText{"\xE0\x9F\xBF", 0},      // overlong
                      BadText{"\xED\xA0\x80", 0},      // surrogate
                      BadText{"\xF0\x8F\xBF\xBF", 0},  // overlong
                      BadText{"\xF4\x90\x80\x80", 0},  // beyond U+10FFFF
                      BadText{"\xF5\x80\x80\x80", 0},  // never a lead
                      BadText{"xy\xE2\x82", 2},        // cut short at the end
                      BadText{"\xE2\x82\xAC\xE2\x28\xA1", 3},
                      BadText{"\xF0\x9F\x98", 0}));

TEST(NeutraliseTest, TextStaysAsItIs) {
  const std::string text =
      "Caf\xC3\xA9, \xE2\x82\xAC 5,\n\ttab \xF0\x9F\x98\x80 \xE4\xB8\xAD";
  EXPECT_EQ(Neutralise(text), text);
}

TEST(NeutraliseTest, EscapesBecomePictures) {
  EXPECT_EQ(Neutralise("\x1b[31mred"), "\u241B[31mred");
  EXPECT_EQ(Neutralise("a\rb\x07"
                       "c\x7F"),
            "a\u240Db\u2407c\u2421");
  EXPECT_EQ(Neutralise(std::string("\0", 1)), "\u2400");
}

TEST(NeutraliseTest, UnicodeControlsAreReplaced) {
  EXPECT_EQ(Neutralise("\xC2\x9B"
                       "31m"),
            "\uFFFD31m");  // CSI in one character
  EXPECT_EQ(Neutralise("a\u202E"
                       "b"),
            "a\uFFFDb");  // right-to-left override
  EXPECT_EQ(Neutralise("a\u2066"
                       "b"),
            "a\uFFFDb");
  EXPECT_EQ(Neutralise("\u00A0\u2019"), "\u00A0\u2019");  // neighbours stay
}

TEST(NeutraliseTest, BadBytesAreReplacedOneByOne) {
  EXPECT_EQ(Neutralise("a\xFF\xE2\x82"
                       "b"),
            "a\uFFFD\uFFFD\uFFFDb");
}

}  // namespace
}  // namespace quire::cli

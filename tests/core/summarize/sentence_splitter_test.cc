#include "core/summarize/sentence_splitter.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

#include "core/summarize/utf8.h"

namespace quire {
namespace {

using ::testing::ElementsAreArray;

std::vector<std::string> Texts(std::string_view text, int64_t max_bytes = 1000) {
  std::vector<std::string> sentences;
  for (const Sentence& sentence : SplitSentences(text, max_bytes)) {
    sentences.emplace_back(
        text.substr(sentence.span.begin, sentence.span.end - sentence.span.begin));
  }
  return sentences;
}

struct SplitCase {
  std::string name;
  std::string text;
  std::vector<std::string> sentences;
};

class SplitTableTest : public ::testing::TestWithParam<SplitCase> {};

TEST_P(SplitTableTest, Splits) {
  EXPECT_THAT(Texts(GetParam().text), ElementsAreArray(GetParam().sentences));
}

INSTANTIATE_TEST_SUITE_P(
    Table, SplitTableTest,
    ::testing::ValuesIn(std::vector<SplitCase>{
        {"Empty", "", {}},
        {"WhiteSpace", " \n\t\u00A0\u3000\n\n ", {}},
        {"NoStop", "no stop at all", {"no stop at all"}},
        {"Plain",
         "One came. Two went! Did three? Yes",
         {"One came.", "Two went!", "Did three?", "Yes"}},
        {"OuterSpace", "  One. \n Two.  ", {"One.", "Two."}},
        {"Titles",
         "Mr. and Mrs. Bennet met Dr. Watson. Prof. X left.",
         {"Mr. and Mrs. Bennet met Dr. Watson.", "Prof. X left."}},
        {"Initials",
         "J. R. R. Tolkien wrote it. A. A. Milne did not.",
         {"J. R. R. Tolkien wrote it.", "A. A. Milne did not."}},
        {"InitialThenOpener",
         "It was I. Then he left plan B. But why?",
         {"It was I.", "Then he left plan B.", "But why?"}},
        {"Acronyms",
         "The U.S. Army came at 5 p.m. It stayed in the U.S. for long.",
         {"The U.S. Army came at 5 p.m.", "It stayed in the U.S. for long."}},
        {"Ambiguous",
         "Tea, etc. was sold. He sold tea, etc. The rest was lost.",
         {"Tea, etc. was sold.", "He sold tea, etc.", "The rest was lost."}},
        {"BeforeNumber",
         "See No. 5 and Fig. 3. No. I will not.",
         {"See No. 5 and Fig. 3.", "No.", "I will not."}},
        {"Latin",
         "Birds, e.g. crows, i.e. black ones. They fly.",
         {"Birds, e.g. crows, i.e. black ones.", "They fly."}},
        {"Numbers",
         "It rose by 3.5. Profits fell to 1,000.25 in 2019. So it goes.",
         {"It rose by 3.5.", "Profits fell to 1,000.25 in 2019.", "So it goes."}},
        {"UrlsAndFiles",
         "Go to www.example.com or read a.txt. Then stop.",
         {"Go to www.example.com or read a.txt.", "Then stop."}},
        {"Quotes",
         "\"Stop!\" he said. \"Why?\" \u201CBecause.\u201D She left.",
         {"\"Stop!\" he said.", "\"Why?\"", "\u201CBecause.\u201D", "She left."}},
        {"QuoteGoesOn",
         "(He came.) \u2018No!\u2019 cried she.",
         {"(He came.)", "\u2018No!\u2019 cried she."}},
        {"LowerCaseAfterQuote",
         "He said it. \"and then\" was all.",
         {"He said it. \"and then\" was all."}},
        {"Ellipses",
         "Wait... what? Wait... He left\u2026 She too . . . and then",
         {"Wait... what?", "Wait...", "He left\u2026", "She too . . . and then"}},
        {"ManyMarks", "What?! No!!! Yes.", {"What?!", "No!!!", "Yes."}},
        {"Items",
         "1. Open the box. 2. Close it. IV. The end of it.",
         {"1. Open the box.", "2. Close it.", "IV. The end of it."}},
        {"BlankLine",
         "CHAPTER I\n\nDown the hole\n \t\nalice was tired",
         {"CHAPTER I", "Down the hole", "alice was tired"}},
        {"WrappedLine",
         "She was\nvery tired. Of\r\nsitting.",
         {"She was\nvery tired.", "Of\r\nsitting."}},
        {"WindowsBlankLine", "one\r\n\r\ntwo", {"one", "two"}},
        {"DeeperIndent",
         "one\n    Two\n    three\nfour",
         {"one", "Two\n    three\nfour"}},
        {"List",
         "Buy:\n- milk\n* bread\n\u2022 tea\n12) eggs\n-5 degrees",
         {"Buy:", "- milk", "* bread", "\u2022 tea", "12) eggs\n-5 degrees"}},
        {"LongLine", std::string(201, 'x') + "\ny", {std::string(201, 'x'), "y"}},
        {"FormFeed", "one\ftwo", {"one", "two"}},
        {"Chinese",
         "今天很好。我们走吧！「好。」他说。去哪？走",
         {"今天很好。", "我们走吧！", "「好。」", "他说。", "去哪？", "走"}},
        {"ChineseMarks", "真的吗？！是。", {"真的吗？！", "是。"}},
        {"Hindi", "यह है। वह है।", {"यह है।", "वह है।"}},
        {"Arabic", "كيف حالك؟ بخير.", {"كيف حالك؟", "بخير."}},
        {"Accents",
         "Il part. \u00E9tait-il l\u00E0? \u00C9tait-ce lui?",
         {"Il part. \u00E9tait-il l\u00E0?", "\u00C9tait-ce lui?"}},
        {"Cyrillic",
         "Он ушёл. Она осталась. и всё.",
         {"Он ушёл.", "Она осталась. и всё."}},
    }),
    [](const ::testing::TestParamInfo<SplitCase>& info) { return info.param.name; });

TEST(SentenceSplitterTest, MarksParagraphs) {
  std::vector<bool> begins;
  for (const Sentence& sentence : SplitSentences("A b. C d.\n\nE f. G h.\n\n\n", 100)) {
    begins.push_back(sentence.begins_paragraph);
  }
  EXPECT_THAT(begins, ElementsAreArray({true, false, true, false}));
}

TEST(SentenceSplitterTest, CutsLongSentencesAtWhiteSpace) {
  EXPECT_THAT(Texts("aaa bbb  ccc ddd", 8), ElementsAreArray({"aaa bbb", "ccc ddd"}));
  EXPECT_THAT(Texts("aaaaaaaaaaaa b", 5), ElementsAreArray({"aaaaa", "aaaaa", "aa b"}));
}

TEST(SentenceSplitterTest, CutsLongSentencesBetweenCharacters) {
  EXPECT_THAT(Texts("\u4E00\u4E8C\u4E09", 4),
              ElementsAreArray({"\u4E00", "\u4E8C", "\u4E09"}));
  EXPECT_THAT(Texts("\U0001F600\U0001F601", 7),
              ElementsAreArray({"\U0001F600", "\U0001F601"}));
}

// What every text must satisfy, whatever its bytes.
void ExpectSound(std::string_view text, int64_t max_bytes, bool utf8) {
  int64_t covered = 0;
  for (const Sentence& sentence : SplitSentences(text, max_bytes)) {
    ASSERT_LE(covered, sentence.span.begin);
    ASSERT_LT(sentence.span.begin, sentence.span.end);
    ASSERT_LE(sentence.span.end - sentence.span.begin, max_bytes);
    ASSERT_EQ(SkipWhiteSpace(text, covered) >= sentence.span.begin, true)
        << "a gap with text";
    if (utf8) {
      ASSERT_TRUE(IsCharacterBoundary(text, sentence.span.begin));
      ASSERT_TRUE(IsCharacterBoundary(text, sentence.span.end));
    }
    covered = sentence.span.end;
  }
  ASSERT_LE(covered, static_cast<int64_t>(text.size()));
  ASSERT_EQ(SkipWhiteSpace(text, covered), static_cast<int64_t>(text.size()));
}

TEST(SentenceSplitterTest, HoldsForRandomText) {
  const std::vector<std::string> pieces = {
      "a",      "B",          " ",      "  ",     "\n",     "\n\n",   "\t",
      ".",      "!",          "?",      "...",    "\u2026", "\"",     "\u201D",
      "(",      ")",          "Mr.",    "1.",     "U.S.",   "\u3002", "\u4E2D",
      "\u300D", "\U0001F600", "\u00E9", "\u3000", "\r\n",   "- ",     "etc.",
      "word",   "The",        "\f",     "\u0964", "5"};
  std::mt19937 random(7);
  for (int round = 0; round < 3000; ++round) {
    std::string text;
    const int count = static_cast<int>(random() % 60);
    for (int i = 0; i < count; ++i) text += pieces[random() % pieces.size()];
    SCOPED_TRACE(text);
    ExpectSound(text, 4 + static_cast<int64_t>(random() % 40), /*utf8=*/true);
    if (HasFatalFailure()) return;
  }
}

TEST(SentenceSplitterTest, HoldsForRandomBytes) {
  std::mt19937 random(11);
  for (int round = 0; round < 3000; ++round) {
    std::string text(random() % 80, '\0');
    for (char& byte : text) byte = static_cast<char>(random() % 256);
    ExpectSound(text, 4 + static_cast<int64_t>(random() % 40), /*utf8=*/false);
    if (HasFatalFailure()) return;
  }
}

// Each of these would take hours if the work grew with the square of the length.
TEST(SentenceSplitterTest, IsLinear) {
  for (const char* unit :
       {")", "(", ".", "\u3002)", " ", "\n", "a", "1", "A.", "\x80", "\u3002"}) {
    std::string text;
    while (text.size() < 2'000'000) text += unit;
    EXPECT_LE(SplitSentences(text, 2000).size(), text.size());
  }
}

}  // namespace
}  // namespace quire

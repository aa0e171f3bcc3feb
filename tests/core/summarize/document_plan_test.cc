#include "core/summarize/document_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

#include "core/summarize/utf8.h"

namespace quire {
namespace {

// One token for each word, with the white space before it.
std::vector<ByteSpan> WordSpans(std::string_view text) {
  std::vector<ByteSpan> spans;
  int64_t begin = 0;
  while (begin < static_cast<int64_t>(text.size())) {
    int64_t end = SkipWhiteSpace(text, begin);
    if (end == static_cast<int64_t>(text.size())) break;
    while (end < static_cast<int64_t>(text.size()) &&
           !IsWhiteSpace(CodePointAt(text, end).value)) {
      end += CodePointAt(text, end).length;
    }
    spans.push_back({begin, end});
    begin = end;
  }
  return spans;
}

std::string Words(int count) {
  std::string text;
  for (int i = 0; i < count; ++i) text += "word ";
  return text;
}

// Parts follow each other, cover everything and fit.
void ExpectSound(std::string_view text, const std::vector<ByteSpan>& spans,
                 int64_t max_tokens, const std::vector<DocumentPart>& parts) {
  int64_t byte = 0;
  int64_t token = 0;
  for (const DocumentPart& part : parts) {
    ASSERT_EQ(part.bytes.begin, byte);
    ASSERT_EQ(part.token_begin, token);
    ASSERT_GT(part.token_end, part.token_begin);
    ASSERT_LE(part.token_end - part.token_begin, max_tokens);
    ASSERT_GE(part.bytes.end, part.bytes.begin);
    ASSERT_TRUE(IsCharacterBoundary(text, part.bytes.end));
    byte = part.bytes.end;
    token = part.token_end;
  }
  ASSERT_EQ(byte, static_cast<int64_t>(text.size()));
  ASSERT_EQ(token, static_cast<int64_t>(spans.size()));
}

TEST(PlanPartsTest, OnePartIfItFits) {
  const std::string text = "One two three. Four.\n";
  const std::vector<DocumentPart> parts = PlanParts(text, WordSpans(text), 4);
  EXPECT_THAT(parts, testing::ElementsAre(DocumentPart{{0, 21}, 0, 4}));
}

TEST(PlanPartsTest, CutsAtTheParagraphNearestTheMiddle) {
  std::string text = Words(40) + "end.\n\n";
  const int64_t first = static_cast<int64_t>(text.size());
  text += Words(15) + "End. " + Words(30) + "end.\n";
  const std::vector<ByteSpan> spans = WordSpans(text);
  const std::vector<DocumentPart> parts = PlanParts(text, spans, 60);
  // The white space before a word belongs to its token, and so to the part after.
  EXPECT_THAT(parts,
              testing::ElementsAre(
                  DocumentPart{{0, first - 2}, 0, 41},
                  DocumentPart{{first - 2, static_cast<int64_t>(text.size())}, 41, 88}));
}

TEST(PlanPartsTest, CutsAtASentenceWhereNoParagraphIsNear) {
  const std::string text =
      "One.\n\n" + Words(45) + "end. And " + Words(45) + "end.\n\nThe last.";
  const std::vector<ByteSpan> spans = WordSpans(text);
  const std::vector<DocumentPart> parts = PlanParts(text, spans, 80);
  ASSERT_EQ(parts.size(), 2u);
  EXPECT_EQ(parts[0].token_end, 47);
  EXPECT_EQ(text.substr(parts[1].bytes.begin, 4), " And");
}

TEST(PlanPartsTest, CutsBetweenCharactersWhereNothingElseIsNear) {
  std::string text;
  std::vector<ByteSpan> spans;
  for (int i = 0; i < 50;
       ++i) {  // two tokens for each character, as byte-level BPE makes them
    const int64_t begin = static_cast<int64_t>(text.size());
    text += "\u4E2D";
    spans.push_back({begin, begin + 3});
    spans.push_back({begin, begin + 3});
  }
  const std::vector<DocumentPart> parts = PlanParts(text, spans, 33);
  ExpectSound(text, spans, 33, parts);
  ASSERT_EQ(parts.size(), 4u);
  for (const DocumentPart& part : parts) EXPECT_EQ(part.token_begin % 2, 0);
}

TEST(PlanPartsTest, HoldsForRandomText) {
  std::mt19937 random(3);
  const std::vector<std::string> pieces = {"word ", "end. ",        "\n\n",
                                           "The ",  "\u4E2D\u3002", "  "};
  for (int round = 0; round < 500; ++round) {
    std::string text = "x ";
    const int count = static_cast<int>(random() % 300);
    for (int i = 0; i < count; ++i) text += pieces[random() % pieces.size()];
    const std::vector<ByteSpan> spans = WordSpans(text);
    const int64_t max_tokens = 1 + static_cast<int64_t>(random() % 50);
    const std::vector<DocumentPart> parts = PlanParts(text, spans, max_tokens);
    ExpectSound(text, spans, max_tokens, parts);
    if (HasFatalFailure()) return;
    const int64_t tokens = static_cast<int64_t>(spans.size());
    const int64_t planned = std::max<int64_t>(1, max_tokens * 9 / 10);
    EXPECT_EQ(static_cast<int64_t>(parts.size()),
              tokens <= max_tokens ? 1 : (tokens + planned - 1) / planned);
  }
}

}  // namespace
}  // namespace quire

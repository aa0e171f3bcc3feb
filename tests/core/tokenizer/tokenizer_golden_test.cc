// Ids and texts equal to those of Hugging Face's own package on texts chosen to break
// things.
#include <algorithm>
#include <string>
#include <vector>

#include "core/tokenizer/tokenizer.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/core/tokenizer/goldens.h"

namespace quire {
namespace {

using testing::Digest;
using testing::GoldenJson;
using testing::Ids;
using testing::LongText;
using testing::NamedTokenizer;
using testing::NastyText;
using testing::NastyTexts;

class TokenizerGoldenTest : public ::testing::TestWithParam<std::string> {
 protected:
  const Tokenizer& tokenizer_ = NamedTokenizer(GetParam());
  // Whether the bytes of every token are those of its span.
  bool SpellTheText(const Encoding& encoding, const std::string& text) const {
    for (size_t i = 0; i < encoding.ids.size(); ++i) {
      const auto [begin, end] = encoding.spans[i];
      if (text.substr(begin, end - begin) != tokenizer_.TokenBytes(encoding.ids[i]))
        return false;
    }
    return true;
  }

  // Llama 2 puts a space before the text and takes its own mark for one, Qwen composes
  // characters (NFC); else it is the text.
  std::string ExpectedBytes(const NastyText& nasty,
                            const std::vector<TokenId>& ids) const {
    const bool llama2 = GetParam() == "llama2_like" && !nasty.text.empty();
    if (llama2 && nasty.name == "metaspace mark") return "  word    two";
    if (GetParam() == "qwen_like") return tokenizer_.Decode(ids, false).value();
    return (llama2 ? " " : "") + nasty.text;
  }

  const nlohmann::json golden_ = GoldenJson("golden_ids.json").at(GetParam());
};

TEST_P(TokenizerGoldenTest, CoversEveryText) {
  EXPECT_EQ(golden_.size(), NastyTexts().size() + 1);  // and the long text
  EXPECT_GE(golden_.size(), 60u);
}

TEST_P(TokenizerGoldenTest, IdsAreEqual) {
  for (const NastyText& nasty : NastyTexts()) {
    const nlohmann::json& golden = golden_.at(nasty.name);
    const auto parsed = golden["parsed"].get<std::vector<TokenId>>();
    const auto literal = golden.value("literal", parsed);
    EXPECT_EQ(tokenizer_.Encode(nasty.text, true, true).value(), parsed) << nasty.name;
    EXPECT_EQ(tokenizer_.Encode(nasty.text, false, false).value(), literal) << nasty.name;
  }
}

TEST_P(TokenizerGoldenTest, IdsWithSpansAreThoseWithout) {
  for (const NastyText& nasty : NastyTexts()) {
    for (const bool special : {false, true}) {
      const Encoding encoding =
          tokenizer_.EncodeWithSpans(nasty.text, special, special).value();
      EXPECT_EQ(encoding.ids, tokenizer_.Encode(nasty.text, special, special).value())
          << nasty.name;
      EXPECT_EQ(encoding.spans.size(), encoding.ids.size());
    }
  }
}

// Long texts are cut into pieces where the tokenizer allows it; nobody must be able to
// tell.
TEST_P(TokenizerGoldenTest, IdsOfALongTextAreEqual) {
  const nlohmann::json& golden = golden_.at("long text");
  const std::string text = LongText();
  EXPECT_EQ(std::to_string(Digest(Ids(tokenizer_, text, true, true))), golden["parsed"]);
  EXPECT_EQ(std::to_string(Digest(Ids(tokenizer_, text, false, false))),
            golden["literal"]);
}

TEST_P(TokenizerGoldenTest, SpansOfALongTextAreInOrder) {
  const std::string text = LongText();
  const Encoding encoding = tokenizer_.EncodeWithSpans(text, true, false).value();
  EXPECT_EQ(encoding.ids, Ids(tokenizer_, text, true, false));
  ASSERT_EQ(encoding.spans.size(), encoding.ids.size());
  int64_t gaps = encoding.spans.front().begin;
  for (size_t i = 1; i < encoding.spans.size(); ++i) {
    gaps += std::max<int64_t>(0, encoding.spans[i].begin - encoding.spans[i - 1].end);
  }
  EXPECT_EQ(gaps, 0);
  EXPECT_EQ(encoding.spans.back().end, static_cast<int64_t>(text.size()));
  EXPECT_TRUE(GetParam() != "quire-19m" || SpellTheText(encoding, text));
}

TEST_P(TokenizerGoldenTest, DecodedTextIsEqual) {
  for (const NastyText& nasty : NastyTexts()) {
    const nlohmann::json& golden = golden_.at(nasty.name);
    const auto ids = golden["parsed"].get<std::vector<TokenId>>();
    EXPECT_EQ(tokenizer_.Decode(ids, true).value(), golden["decoded"].get<std::string>())
        << nasty.name;
  }
}

TEST_P(TokenizerGoldenTest, LiteralTextHasNoSpecialTokenButTheUnknownOne) {
  const bool has_unknown = GetParam() == "quire-135m" || GetParam() == "llama2_like";
  for (const NastyText& nasty : NastyTexts()) {
    for (const TokenId id : Ids(tokenizer_, nasty.text, false, false)) {
      EXPECT_FALSE(tokenizer_.IsSpecial(id) && !(has_unknown && id == 0))
          << nasty.name << ": " << id;
    }
  }
}

// The raw bytes of the tokens are the text, but for what a tokenizer changes on purpose.
TEST_P(TokenizerGoldenTest, BytesOfTokensMakeTheText) {
  for (const NastyText& nasty : NastyTexts()) {
    bool unknown = false;
    std::string bytes;
    const std::vector<TokenId> ids = Ids(tokenizer_, nasty.text, false, false);
    for (const TokenId id : ids) {
      unknown = unknown || tokenizer_.IsSpecial(id);
      bytes += tokenizer_.TokenBytes(id);
    }
    if (unknown) continue;
    EXPECT_EQ(bytes, ExpectedBytes(nasty, ids)) << nasty.name;
  }
}

// Every byte is covered, in order; where tokens are made of the text's bytes, spans meet
// even inside a character.
TEST_P(TokenizerGoldenTest, SpansCoverTheTextInOrder) {
  const bool exact = GetParam() == "quire-19m" || GetParam() == "llama3_like";
  for (const NastyText& nasty : NastyTexts()) {
    const Encoding encoding =
        tokenizer_.EncodeWithSpans(nasty.text, false, false).value();
    ByteSpan before{0, 0};
    for (size_t i = 0; i < encoding.spans.size(); ++i) {
      SCOPED_TRACE(nasty.name + ", token " + std::to_string(i));
      const ByteSpan span = encoding.spans[i];
      EXPECT_LE(span.begin, before.end);
      EXPECT_GE(span.begin, before.begin);
      EXPECT_GE(span.end, before.end);
      if (exact) {
        EXPECT_EQ(nasty.text.substr(before.end, span.end - before.end),
                  tokenizer_.TokenBytes(encoding.ids[i]));
      }
      before = span;
    }
    EXPECT_EQ(before.end, static_cast<int64_t>(nasty.text.size())) << nasty.name;
  }
}

INSTANTIATE_TEST_SUITE_P(All, TokenizerGoldenTest,
                         ::testing::ValuesIn(testing::TokenizerNames()),
                         [](const auto& info) {
                           std::string name = info.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

}  // namespace
}  // namespace quire

#include "core/tokenizer/tokenizer.h"

#include <cstdio>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/core/tokenizer/goldens.h"
#include "tests/support/temp_path.h"

namespace quire {
namespace {

using ::testing::AllOf;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::NamedTokenizer;
using ::testing::Not;

// Three characters, and merges that spell the special token <s>.
constexpr char kForgeable[] = R"({
  "added_tokens": [{"id": 5, "content": "<s>", "single_word": false, "lstrip": false,
                    "rstrip": false, "normalized": false, "special": true}],
  "truncation": {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0},
  "padding": {"strategy": {"Fixed": 8}, "direction": "Right", "pad_to_multiple_of": null,
              "pad_id": 5, "pad_type_id": 0, "pad_token": "<s>"},
  "normalizer": null, "pre_tokenizer": null, "post_processor": null,
  "decoder": {"type": "Fuse"},
  "model": {"type": "BPE", "unk_token": null, "fuse_unk": false, "byte_fallback": false,
            "vocab": {"<": 0, "s": 1, ">": 2, "x": 3, "<s": 4, "<s>": 5},
            "merges": ["< s", "<s >"]}
})";

absl::Status ParseError(const std::string& json) {
  return Tokenizer::Parse(json).status();
}

TEST(TokenizerTest, LoadNamesAMissingFile) {
  const absl::Status status = Tokenizer::Load("/nonexistent/tokenizer.json").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(status.message(), HasSubstr("/nonexistent/tokenizer.json"));
}

TEST(TokenizerTest, LoadNamesABadFile) {
  const std::string path = TempPath("bad_tokenizer.json");
  std::ofstream(path) << "{\"model\": 3}";
  const absl::Status status = Tokenizer::Load(path).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(status.message(), HasSubstr(path));
  std::remove(path.c_str());
}

TEST(TokenizerTest, BadJsonIsInvalid) {
  const std::string deep(100000, '[');
  for (const std::string& json : {std::string(), std::string("{}"), std::string("[1"),
                                  deep, std::string("{\"model\":{\"type\":\"BPE\"}}")}) {
    EXPECT_EQ(ParseError(json).code(), absl::StatusCode::kInvalidArgument)
        << json.substr(0, 40);
  }
}

TEST(TokenizerTest, RefusesAVocabularyWithAHugeId) {
  std::string json = kForgeable;
  json.replace(json.find("\"x\": 3"), 6, "\"x\": 16777216");
  const absl::Status status = ParseError(json);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(status.message(), AllOf(HasSubstr("16777216"), HasSubstr("16777215")));
}

TEST(TokenizerTest, RefusesADecoderThatItCannotStream) {
  std::string json = kForgeable;
  json.replace(json.find("{\"type\": \"Fuse\"}"), 16,
               R"({"type": "WordPiece", "prefix": "##", "cleanup": true})");
  const absl::Status status = ParseError(json);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(status.message(), HasSubstr("decoder WordPiece is not supported"));
}

TEST(TokenizerTest, SpecialTokensAreParsedOnlyWhenAsked) {
  const Tokenizer& tokenizer = NamedTokenizer("quire-135m");
  const std::string text = "<|im_start|>user\nHi<|im_end|>";
  EXPECT_THAT(tokenizer.Encode(text, false, true).value(),
              ElementsAre(1, 4093, 198, 26843, 2));
  const std::vector<TokenId> literal = tokenizer.Encode(text, false, false).value();
  EXPECT_THAT(literal, Each(::testing::Gt(16)));  // 0 to 16 are the special ones
  EXPECT_EQ(tokenizer.Decode(literal, true).value(), text);
}

TEST(TokenizerTest, MergesCannotForgeASpecialToken) {
  const Tokenizer tokenizer = Tokenizer::Parse(kForgeable).value();
  EXPECT_THAT(tokenizer.Encode("x<s>x<s", false, true).value(), ElementsAre(3, 5, 3, 4));
  EXPECT_THAT(tokenizer.Encode("x<s>x<s", false, false).value(),
              ElementsAre(3, 0, 1, 2, 3, 4));
  const Encoding encoding = tokenizer.EncodeWithSpans("x<s>x<s", false, false).value();
  EXPECT_THAT(encoding.ids, ElementsAre(3, 0, 1, 2, 3, 4));
  EXPECT_THAT(encoding.spans,
              ElementsAre(ByteSpan{0, 1}, ByteSpan{1, 2}, ByteSpan{2, 3}, ByteSpan{3, 4},
                          ByteSpan{4, 5}, ByteSpan{5, 7}));
}

TEST(TokenizerTest, TruncationAndPaddingOfTheFileAreIgnored) {
  const Tokenizer tokenizer = Tokenizer::Parse(kForgeable).value();
  EXPECT_THAT(tokenizer.Encode("xxx", false, true).value(), ElementsAre(3, 3, 3));
  EXPECT_THAT(tokenizer.Encode("", false, true).value(), ElementsAre());
}

TEST(TokenizerTest, AddSpecialLetsThePostProcessorAddItsTokens) {
  const Tokenizer& tokenizer = NamedTokenizer("llama2_like");
  const std::vector<TokenId> with = tokenizer.Encode("rain", true, false).value();
  const std::vector<TokenId> without = tokenizer.Encode("rain", false, false).value();
  ASSERT_EQ(with.size(), without.size() + 1);
  EXPECT_EQ(with.front(), tokenizer.TokenToId("<s>"));
  EXPECT_EQ(std::vector<TokenId>(with.begin() + 1, with.end()), without);
  const Encoding encoding = tokenizer.EncodeWithSpans("rain", true, false).value();
  EXPECT_EQ(encoding.spans.front(), (ByteSpan{0, 0}));
  EXPECT_EQ(encoding.spans.back().end, 4);
}

TEST(TokenizerTest, SpansAreBytesAndMeetInsideACharacter) {
  const Tokenizer& tokenizer = NamedTokenizer("quire-19m");
  const std::string text = "\u00e9\U0001F9FFa";  // 2 + 4 + 1 bytes
  const Encoding encoding = tokenizer.EncodeWithSpans(text, false, false).value();
  std::string bytes;
  for (size_t i = 0; i < encoding.ids.size(); ++i) {
    EXPECT_EQ(encoding.spans[i].begin, static_cast<int64_t>(bytes.size()));
    bytes += tokenizer.TokenBytes(encoding.ids[i]);
    EXPECT_EQ(encoding.spans[i].end, static_cast<int64_t>(bytes.size()));
  }
  EXPECT_EQ(bytes, text);
  EXPECT_GT(encoding.ids.size(), 3u);  // at least one character is split
}

TEST(TokenizerTest, SpansOfComposedCharactersAreThoseOfTheText) {
  const Tokenizer& tokenizer = NamedTokenizer("qwen_like");
  const std::string text = "a e\u0301 b";  // NFC makes one character of two
  const Encoding encoding = tokenizer.EncodeWithSpans(text, false, false).value();
  EXPECT_EQ(encoding.spans.front(), (ByteSpan{0, 1}));
  EXPECT_EQ(encoding.spans.end()[-3].end, 5);  // with the combining mark
  EXPECT_EQ(encoding.spans.end()[-2], (ByteSpan{5, 6}));
  EXPECT_EQ(encoding.spans.end()[-1], (ByteSpan{6, 7}));
}

TEST(TokenizerTest, SpansOfParsedSpecialTokensAreTheirText) {
  const Tokenizer& tokenizer = NamedTokenizer("quire-135m");
  const Encoding encoding =
      tokenizer.EncodeWithSpans("x<|im_end|>y", false, true).value();
  EXPECT_EQ(encoding.ids[1], 2);
  EXPECT_THAT(encoding.spans,
              ElementsAre(ByteSpan{0, 1}, ByteSpan{1, 11}, ByteSpan{11, 12}));
}

// Long texts are cut into pieces: what the post-processor adds must come once.
TEST(TokenizerTest, ALongTextHasOneBeginningAndOneEnd) {
  nlohmann::json json = testing::GoldenJson("llama3_like.json");
  json["post_processor"] = nlohmann::json::parse(R"({"type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "<|begin_of_text|>", "type_id": 0}},
               {"Sequence": {"id": "A", "type_id": 0}},
               {"SpecialToken": {"id": "<|eot_id|>", "type_id": 0}}],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
    "special_tokens": {
      "<|begin_of_text|>": {"id": "<|begin_of_text|>", "ids": [600],
                            "tokens": ["<|begin_of_text|>"]},
      "<|eot_id|>": {"id": "<|eot_id|>", "ids": [601], "tokens": ["<|eot_id|>"]}}})");
  const Tokenizer tokenizer = Tokenizer::Parse(json.dump()).value();
  const std::string text = testing::LongText();
  std::vector<TokenId> expected = testing::Ids(tokenizer, text, false, false);
  expected.insert(expected.begin(), 600);
  expected.push_back(601);
  EXPECT_EQ(testing::Ids(tokenizer, text, true, false), expected);
  const Encoding encoding = tokenizer.EncodeWithSpans(text, true, false).value();
  EXPECT_EQ(encoding.ids, expected);
  const auto size = static_cast<int64_t>(text.size());
  EXPECT_EQ(encoding.spans.front(), (ByteSpan{0, 0}));
  EXPECT_EQ(encoding.spans.back(), (ByteSpan{size, size}));
  EXPECT_EQ(encoding.spans.end()[-2].end, size);
}

TEST(TokenizerTest, TheSpacePutBeforeATextCoversNothing) {
  const Tokenizer& tokenizer = NamedTokenizer("llama2_like");
  const Encoding flag = tokenizer.EncodeWithSpans("\U0001F1EB", true, false).value();
  EXPECT_THAT(flag.spans, ElementsAre(ByteSpan{0, 0}, ByteSpan{0, 0}, ByteSpan{0, 1},
                                      ByteSpan{1, 2}, ByteSpan{2, 3}, ByteSpan{3, 4}));
  const Encoding space = tokenizer.EncodeWithSpans(" the", false, false).value();
  EXPECT_EQ(space.spans.front().begin, 0);
  EXPECT_EQ(space.spans.back().end, 4);
}

TEST(TokenizerTest, DecodeNamesAnIdOutOfRange) {
  const Tokenizer& tokenizer = NamedTokenizer("quire-19m");
  ASSERT_EQ(tokenizer.vocab_size(), 8192);
  for (const TokenId id : {-1, 8192, 2147483647}) {
    const absl::Status status = tokenizer.Decode({5, id}, true).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(status.message(),
              "token_ids[1] is " + std::to_string(id) + "; it must be in [0, 8192)");
  }
  EXPECT_EQ(tokenizer.Decode({}, true).value(), "");
}

TEST(TokenizerTest, DecodeSkipsSpecialTokensWhenAsked) {
  const Tokenizer& tokenizer = NamedTokenizer("quire-135m");
  EXPECT_EQ(tokenizer.Decode({1, 4093, 2}, true).value(), "user");
  EXPECT_EQ(tokenizer.Decode({1, 4093, 2}, false).value(), "<|im_start|>user<|im_end|>");
}

TEST(TokenizerTest, TokenBytesOfByteLevelTokens) {
  const Tokenizer& tokenizer = NamedTokenizer("quire-19m");
  EXPECT_EQ(tokenizer.TokenBytes(tokenizer.TokenToId("\u0120the")), " the");
  EXPECT_EQ(tokenizer.TokenBytes(tokenizer.TokenToId("\u010a")), "\n");
  EXPECT_EQ(tokenizer.TokenBytes(tokenizer.TokenToId("\u00c3")), "\xC3");
  EXPECT_EQ(tokenizer.TokenBytes(tokenizer.TokenToId("\u0100")), std::string(1, '\0'));
  EXPECT_EQ(tokenizer.TokenBytes(0), "");  // special
}

TEST(TokenizerTest, TokenBytesOfMetaspaceAndByteFallbackTokens) {
  const Tokenizer& tokenizer = NamedTokenizer("llama2_like");
  EXPECT_EQ(tokenizer.TokenBytes(tokenizer.TokenToId("\u2581")), " ");
  EXPECT_EQ(tokenizer.TokenBytes(tokenizer.TokenToId("<0xE2>")), "\xE2");
  EXPECT_EQ(tokenizer.TokenBytes(tokenizer.TokenToId("<0x00>")), std::string(1, '\0'));
  EXPECT_EQ(tokenizer.TokenBytes(tokenizer.TokenToId("</s>")), "");
}

TEST(TokenizerTest, AddedTokensThatAreNotSpecialAreText) {
  const Tokenizer& tokenizer = NamedTokenizer("qwen_like");
  const TokenId think = tokenizer.TokenToId("<think>");
  EXPECT_FALSE(tokenizer.IsSpecial(think));
  EXPECT_EQ(tokenizer.TokenBytes(think), "<think>");
  EXPECT_TRUE(tokenizer.IsSpecial(tokenizer.TokenToId("<|im_end|>")));
}

TEST(TokenizerTest, LooksUpTokensByText) {
  const Tokenizer& tokenizer = NamedTokenizer("quire-135m");
  EXPECT_EQ(tokenizer.TokenToId("<|im_end|>"), 2);
  EXPECT_EQ(tokenizer.TokenToId("no such token"), -1);
  EXPECT_EQ(tokenizer.TokenToId("\xFF"), -1);
  EXPECT_FALSE(tokenizer.IsSpecial(-1));
  EXPECT_FALSE(tokenizer.IsSpecial(tokenizer.vocab_size()));
}

TEST(TokenizerTest, IdsWithoutATokenAreEmpty) {
  std::string json = kForgeable;
  json.replace(json.find("\"x\": 3"), 6, "\"x\": 9");
  const Tokenizer tokenizer = Tokenizer::Parse(json).value();
  EXPECT_EQ(tokenizer.vocab_size(), 10);
  EXPECT_EQ(tokenizer.TokenBytes(7), "");
  EXPECT_EQ(tokenizer.TokenBytes(9), "x");
  EXPECT_EQ(tokenizer.Decode({9, 7, 9}, true).value(), "xx");
}

TEST(TokenizerTest, RefusesTextThatIsNotUtf8) {
  const Tokenizer& tokenizer = NamedTokenizer("quire-19m");
  const absl::Status status = tokenizer.Encode("abc\xC3(", false, false).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(status.message(), "text is not valid UTF-8 at byte 3");
  EXPECT_EQ(tokenizer.EncodeWithSpans("\xFF", true, true).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(TokenizerTest, ThreadsGetTheSameIds) {
  const Tokenizer& tokenizer = NamedTokenizer("quire-135m");
  const std::vector<testing::NastyText> texts = testing::NastyTexts();
  std::vector<std::vector<TokenId>> expected;
  for (const auto& nasty : texts) {
    expected.push_back(tokenizer.Encode(nasty.text, true, true).value());
  }
  std::vector<int> differences(4, 0);
  std::vector<std::thread> threads;
  for (int& count : differences) {
    threads.emplace_back([&] {
      for (size_t i = 0; i < texts.size(); ++i) {
        count += tokenizer.Encode(texts[i].text, true, true).value() != expected[i];
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_THAT(differences, Each(0));
}

TEST(Utf8Test, FindsTheFirstInvalidByte) {
  struct Case {
    std::string text;
    int64_t offset;
  };
  const Case cases[] = {
      {"", -1},
      {"plain", -1},
      {std::string("a\0b", 3), -1},
      {"\u00e9\u20ac\U0001F600", -1},
      {"\xEF\xBF\xBF", -1},      // U+FFFF: odd, but a code point
      {"\xF4\x8F\xBF\xBF", -1},  // U+10FFFF
      {"\x80", 0},               // continuation without a lead
      {"ab\xBF", 2},
      {"\xC3", 0},  // cut
      {"x\xE2\x82", 1},
      {"xy\xF0\x9F\x98", 2},
      {"\xC3(", 0},  // continuation missing
      {"\xE2(\xA1", 0},
      {"\u20ac\xE2\x82(", 3},
      {"\xC0\xAF", 0},  // overlong
      {"\xC1\xBF", 0},
      {"\xE0\x9F\xBF", 0},
      {"\xF0\x8F\xBF\xBF", 0},
      {"\xED\xA0\x80", 0},  // surrogates
      {"z\xED\xBF\xBF", 1},
      {"\xF4\x90\x80\x80", 0},  // above U+10FFFF
      {"\xF5\x80\x80\x80", 0},
      {"\xFE", 0},
      {"\xFF", 0},
      {std::string(1000, 'a') + "\xFF" + std::string(1000, 'b'), 1000},
  };
  for (const Case& c : cases) EXPECT_EQ(FirstInvalidUtf8(c.text), c.offset) << c.text;
}

}  // namespace
}  // namespace quire

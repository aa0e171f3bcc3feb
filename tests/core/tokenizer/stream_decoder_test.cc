#include "core/tokenizer/stream_decoder.h"

#include <random>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/core/tokenizer/goldens.h"

namespace quire {
namespace {

using ::testing::ElementsAre;
using testing::Ids;
using testing::NamedTokenizer;

constexpr char kReplacement[] = "\uFFFD";

std::string ByteToken(unsigned byte) {
  char text[8];
  std::snprintf(text, sizeof(text), "<0x%02X>", byte);
  return text;
}

// Every byte of `bytes` as its own token of a byte-fallback vocabulary.
std::vector<std::string> StreamBytes(std::string_view bytes) {
  const Tokenizer& tokenizer = NamedTokenizer("llama2_like");
  StreamDecoder decoder(tokenizer);
  std::vector<std::string> pieces;
  for (const unsigned char byte : bytes) {
    pieces.push_back(decoder.Push(tokenizer.TokenToId(ByteToken(byte))));
  }
  pieces.push_back(decoder.Finish());
  return pieces;
}

std::string Join(const std::vector<std::string>& pieces) {
  std::string text;
  for (const std::string& piece : pieces) text += piece;
  return text;
}

TEST(StreamDecoderTest, CharactersComeWhole) {
  EXPECT_THAT(StreamBytes("a\u00e9\u20ac\U0001F600z"),
              ElementsAre("a", "", "\u00e9", "", "", "\u20ac", "", "", "", "\U0001F600",
                          "z", ""));
}

TEST(StreamDecoderTest, EveryPieceOfEveryTextIsValidUtf8) {
  for (const std::string& name : testing::TokenizerNames()) {
    const Tokenizer& tokenizer = NamedTokenizer(name);
    for (const testing::NastyText& nasty : testing::NastyTexts()) {
      StreamDecoder decoder(tokenizer);
      std::string streamed, raw;
      for (const TokenId id : Ids(tokenizer, nasty.text, true, true)) {
        const std::string piece = decoder.Push(id);
        EXPECT_EQ(FirstInvalidUtf8(piece), -1) << name << ": " << nasty.name;
        streamed += piece;
        raw += tokenizer.TokenBytes(id);
      }
      // Where the vocabulary lacks a byte, the tokens alone are not valid UTF-8.
      if (FirstInvalidUtf8(raw) == -1) {
        EXPECT_EQ(streamed, raw) << name << ": " << nasty.name;
      }
      EXPECT_EQ(decoder.Finish(), "") << name << ": " << nasty.name;
    }
  }
}

// The expected texts are Python's bytes.decode("utf-8", "replace").
TEST(StreamDecoderTest, InvalidBytesBecomeReplacementCharacters) {
  struct Case {
    std::string bytes;
    int replaced;
    std::string after;
  };
  const Case cases[] = {
      {"\xFFz", 1, "z"},
      {"\x80\x80z", 2, "z"},
      {"\xC3z", 1, "z"},
      {"\xC0\xAFz", 2, "z"},
      {"\xE2\x82z", 1, "z"},
      {"\xE2\x82", 1, ""},
      {"\xF0\x9F\x98", 1, ""},
      {"\xF0\x9F\x98z", 1, "z"},
      {"\xED\xA0\x80z", 3, "z"},
      {"\xE0\x9F\xBFz", 3, "z"},
      {"\xF0\x8F\xBF\xBFz", 4, "z"},
      {"\xF4\x90\x80\x80z", 4, "z"},
      {"\xF5\x80z", 2, "z"},
      {"\xE2\xE2\x82\xAC", 1, "\u20ac"},
      {"\xF1\x80\x80\xC3\xA9", 1, "\u00e9"},
  };
  for (const Case& c : cases) {
    std::string expected;
    for (int i = 0; i < c.replaced; ++i) expected += kReplacement;
    EXPECT_EQ(Join(StreamBytes(c.bytes)), expected + c.after);
  }
}

TEST(StreamDecoderTest, WhatCannotBecomeACharacterIsNotHeldBack) {
  EXPECT_THAT(
      StreamBytes("\xED\xA0\x80"),
      ElementsAre("", std::string(kReplacement) + kReplacement, kReplacement, ""));
}

TEST(StreamDecoderTest, SpecialTokensAddNothing) {
  const Tokenizer& tokenizer = NamedTokenizer("quire-135m");
  StreamDecoder decoder(tokenizer);
  EXPECT_EQ(decoder.Push(2), "");
  EXPECT_EQ(decoder.Push(4093), "user");
}

TEST(StreamDecoderTest, IdsOfPaddedEmbeddingRowsAddNothing) {
  const Tokenizer& tokenizer = NamedTokenizer("quire-19m");
  StreamDecoder decoder(tokenizer);
  EXPECT_EQ(decoder.Push(tokenizer.vocab_size()), "");
  EXPECT_EQ(decoder.Push(2147483647), "");
  EXPECT_EQ(decoder.Finish(), "");
}

TEST(StreamDecoderTest, FinishLeavesItEmpty) {
  const Tokenizer& tokenizer = NamedTokenizer("llama2_like");
  StreamDecoder decoder(tokenizer);
  EXPECT_EQ(decoder.Push(tokenizer.TokenToId("<0xE2>")), "");
  EXPECT_EQ(decoder.Finish(), kReplacement);
  EXPECT_EQ(decoder.Finish(), "");
}

// ---- StopMatcher

struct Matched {
  std::string text;
  std::string stop;  // empty: none
  friend bool operator==(const Matched&, const Matched&) = default;
};

void PrintTo(const Matched& matched, std::ostream* out) {
  *out << '"' << matched.text << "\" stopped by \"" << matched.stop << '"';
}

// Grows the text byte by byte until it ends with a stop string.
Matched Oracle(const std::string& text, const std::vector<std::string>& stops) {
  for (size_t size = 1; size <= text.size(); ++size) {
    const std::string seen = text.substr(0, size);
    std::string longest;
    for (const std::string& stop : stops) {
      if (!stop.empty() && seen.ends_with(stop) && stop.size() > longest.size())
        longest = stop;
    }
    if (!longest.empty()) return {seen.substr(0, size - longest.size()), longest};
  }
  return {text, ""};
}

Matched Stream(const std::vector<std::string>& pieces,
               const std::vector<std::string>& stops) {
  StopMatcher matcher(stops);
  std::string text;
  for (const std::string& piece : pieces) {
    StopMatcher::Output output = matcher.Push(piece);
    text += output.text;
    if (output.stopped) return {text, output.stop};
    EXPECT_EQ(output.stop, "");
  }
  return {text + matcher.Finish(), ""};
}

// The pieces of `text` that the bits of `cuts` choose: bit i cuts after byte i.
std::vector<std::string> Cut(const std::string& text, unsigned cuts) {
  std::vector<std::string> pieces(1);
  for (size_t i = 0; i < text.size(); ++i) {
    pieces.back() += text[i];
    if (cuts >> i & 1) pieces.emplace_back();
  }
  return pieces;
}

TEST(StopMatcherTest, EverySplitOfEveryTextAgreesWithTheOracle) {
  const std::vector<std::vector<std::string>> stop_sets = {{},
                                                           {"ab"},
                                                           {"aa"},
                                                           {"aab", "b"},
                                                           {"abcd", "bc"},
                                                           {"bc", "abc"},
                                                           {"aaab", "aab"},
                                                           {"", "ba"},
                                                           {"abab", "babb"},
                                                           {"c"},
                                                           {"ab", "ab"}};
  for (const std::string text :
       {"aaabab", "abcabd", "aabaab", "abababb", "cabcd", "bbbb", "aaaab"}) {
    for (const std::vector<std::string>& stops : stop_sets) {
      const Matched expected = Oracle(text, stops);
      for (unsigned cuts = 0; cuts < 1u << (text.size() - 1); ++cuts) {
        EXPECT_EQ(Stream(Cut(text, cuts), stops), expected) << text << " cut by " << cuts;
      }
    }
  }
}

TEST(StopMatcherTest, RandomTextsAgreeWithTheOracle) {
  std::mt19937 random(7);
  const auto letters = [&random](size_t size) {
    std::string text;
    for (size_t i = 0; i < size; ++i) text += "ab"[random() % 2];
    return text;
  };
  for (int round = 0; round < 3000; ++round) {
    std::vector<std::string> stops;
    for (unsigned i = random() % 4; i > 0; --i)
      stops.push_back(letters(1 + random() % 6));
    const std::string text = letters(random() % 24);
    EXPECT_EQ(Stream(Cut(text, random()), stops), Oracle(text, stops)) << text;
  }
}

TEST(StopMatcherTest, HoldsBackOnlyWhatMayBecomeAStop) {
  StopMatcher matcher({"\n\nQ:", "END"});
  EXPECT_EQ(matcher.Push("one").text, "one");
  EXPECT_EQ(matcher.Push(" E").text, " ");
  EXPECT_EQ(matcher.Push("N").text, "");
  EXPECT_EQ(matcher.Push("d\n").text, "ENd");
  EXPECT_EQ(matcher.Push("\n").text, "");
  EXPECT_EQ(matcher.Push("\n").text, "\n");
  const StopMatcher::Output last = matcher.Push("Q: next");
  EXPECT_EQ(last.text, "");
  EXPECT_TRUE(last.stopped);
  EXPECT_EQ(last.stop, "\n\nQ:");
}

TEST(StopMatcherTest, FinishGivesWhatWasHeld) {
  StopMatcher matcher({"END"});
  EXPECT_EQ(matcher.Push("the EN").text, "the ");
  EXPECT_EQ(matcher.Finish(), "EN");
  EXPECT_EQ(matcher.Finish(), "");
}

}  // namespace
}  // namespace quire

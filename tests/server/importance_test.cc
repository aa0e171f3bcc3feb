#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/server/attention_calls.h"

// Importance of tokens and sentences, over the service.
namespace quire::server {
namespace {

struct Importance {
  std::vector<float> tokens;
  std::vector<v1::SentenceImportance> sentences;
};

Importance Join(const std::vector<v1::ScoreResponse>& events) {
  Importance all;
  for (const auto& event : events) {
    const v1::TokenImportance& block = event.importance();
    if (event.has_importance()) {
      EXPECT_EQ(block.first_token(), static_cast<int64_t>(all.tokens.size()));
      EXPECT_LE(block.importance_size(), 4096);
    }
    all.tokens.insert(all.tokens.end(), block.importance().begin(),
                      block.importance().end());
    EXPECT_LE(event.sentences().sentences_size(), 4096);
    all.sentences.insert(all.sentences.end(), event.sentences().sentences().begin(),
                         event.sentences().sentences().end());
  }
  return all;
}

constexpr char kStory[] =
    " The ship left the harbour at dawn. Nobody waved. The captain counted his crew "
    "twice.";

// The last token, which is not read, has none.
std::vector<double> ImportanceOf(const std::vector<TokenId>& tokens) {
  std::vector<double> importance;
  for (const TokenId token : tokens) importance.push_back(FakeWeight(token));
  importance.back() = 0;
  return importance;
}

TEST(ImportanceTest, OfTokensAndOfSentencesByTheirLastByte) {
  for (const bool begin_token : {false, true}) {
    TestServer server({.begin_token = begin_token});
    v1::ScoreRequest request;
    request.mutable_input()->set_text(kStory);
    request.mutable_options()->set_importance(true);
    request.mutable_options()->set_sentence_importance(true);
    const auto result = Score(server, request);
    ASSERT_TRUE(result.status.ok()) << result.status.error_message();
    const Encoding encoding = *server.tokenizer().EncodeWithSpans(kStory, false, false);
    std::vector<TokenId> read = encoding.ids;
    if (begin_token) read.insert(read.begin(), 1);
    std::vector<double> expected = ImportanceOf(read);
    if (begin_token) expected.erase(expected.begin());
    const Importance got = Join(result.events);
    ASSERT_EQ(got.tokens.size(), expected.size());
    for (size_t i = 0; i < expected.size(); ++i) {
      EXPECT_NEAR(got.tokens[i], expected[i], 1e-5) << i;
    }
    ASSERT_EQ(got.sentences.size(), 3u);
    int64_t counted = 0;
    for (const v1::SentenceImportance& sentence : got.sentences) {
      double sum = 0;
      int64_t tokens = 0;
      for (size_t i = 0; i < expected.size(); ++i) {
        const int64_t last = encoding.spans[i].end - 1;
        if (last < sentence.span().begin() || last >= sentence.span().end()) continue;
        if (i == 0 && !begin_token) continue;
        sum += expected[i];
        ++tokens;
      }
      counted += tokens;
      EXPECT_NEAR(sentence.importance(), sum / static_cast<double>(tokens), 1e-5);
    }
    EXPECT_EQ(counted, static_cast<int64_t>(expected.size()) - (begin_token ? 0 : 1));
    EXPECT_EQ(std::string(kStory).substr(got.sentences[1].span().begin(), 13),
              "Nobody waved.");
  }
}

TEST(ImportanceTest, EachPartOnlyOnRequest) {
  TestServer server;
  v1::ScoreRequest request;
  request.mutable_input()->set_text(kStory);
  EXPECT_TRUE(Join(Score(server, request).events).tokens.empty());
  EXPECT_FALSE(server.fake().steps().back().items[0].importance);
  request.mutable_options()->set_sentence_importance(true);
  const Importance sentences = Join(Score(server, request).events);
  EXPECT_TRUE(sentences.tokens.empty());
  EXPECT_EQ(sentences.sentences.size(), 3u);
  request.mutable_options()->set_sentence_importance(false);
  request.mutable_options()->set_importance(true);
  const Importance tokens = Join(Score(server, request).events);
  EXPECT_FALSE(tokens.tokens.empty());
  EXPECT_TRUE(tokens.sentences.empty());
}

TEST(ImportanceTest, TokenIdsHaveTokensOnly) {
  TestServer server;
  v1::ScoreRequest request = Text(20);
  request.mutable_options()->set_importance(true);
  EXPECT_EQ(Join(Score(server, request).events).tokens.size(), 20u);
  request.mutable_options()->set_sentence_importance(true);
  EXPECT_EQ(FieldViolation(Score(server, request).status),
            "options.sentence_importance: options.sentence_importance is true; it must "
            "be false when the input is not text");
}

TEST(ImportanceTest, LongTextsComeInBlocksThatFollowEachOther) {
  TestServer server({.context_tokens = 5120, .chunk_tokens = 4096});
  v1::ScoreRequest request;
  std::string text;
  for (int i = 0; i < 5000; ++i) absl::StrAppend(&text, "It was day. ");
  request.mutable_input()->set_text(text);
  request.mutable_options()->set_importance(true);
  request.mutable_options()->set_sentence_importance(true);
  const auto result = Score(server, request);
  ASSERT_TRUE(result.status.ok()) << result.status.error_message();
  const Importance all = Join(result.events);
  EXPECT_EQ(all.tokens.size(), server.tokenizer().Encode(text, false, false)->size());
  EXPECT_EQ(all.sentences.size(), 5000u);
  EXPECT_GT(result.events.back().final().windows(), 2);
}

}  // namespace
}  // namespace quire::server

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "tests/server/test_server.h"

namespace quire::server {
namespace {

StreamResult<v1::SummarizeResponse> Summarize(TestServer& server,
                                              const v1::SummarizeRequest& request) {
  grpc::ClientContext context;
  return ReadAll(server.inference().Summarize(&context, request));
}

constexpr char kDocument[] =
    "The ship left the harbour at dawn. Nobody waved. The captain counted his crew "
    "twice. "
    "One man was missing, and the storm was near.";

TEST(SummarizeTest, PlanFirstFinalLastTextBetween) {
  TestServer server;
  v1::SummarizeRequest request;
  request.mutable_input()->set_text(kDocument);
  request.set_strategy(v1::SUMMARY_STRATEGY_ABSTRACTIVE);
  request.set_max_new_tokens(6);
  request.mutable_sampling()->set_seed(3);
  const auto result = Summarize(server, request);
  ASSERT_TRUE(result.status.ok()) << result.status.error_message();
  const v1::SummaryPlan& plan = result.events.front().plan();
  EXPECT_EQ(plan.strategy(), v1::SUMMARY_STRATEGY_ABSTRACTIVE);
  EXPECT_EQ(plan.parts_size(), 1);
  EXPECT_EQ(plan.document_tokens(),
            server.tokenizer().Encode(kDocument, false, false)->size());
  std::string text;
  bool prefilled = false;
  for (const auto& event : result.events) {
    text += event.text().text();
    if (event.has_text() && !event.text().sources().empty()) {
      EXPECT_EQ(event.text().sources(0).end(), sizeof(kDocument) - 1);
    }
    prefilled |= event.progress().phase() == v1::PHASE_PREFILL;
  }
  EXPECT_FALSE(text.empty());
  EXPECT_TRUE(prefilled);
  const v1::SummarizeFinal& final = result.events.back().final();
  EXPECT_EQ(final.finish_reason(), v1::FINISH_REASON_LENGTH);
  EXPECT_EQ(final.usage().generated_tokens(), 6);
  EXPECT_EQ(final.model(), "tiny");
  EXPECT_EQ(final.seed(), 3);
  EXPECT_GT(final.timings().time_to_first_token_seconds(), 0);
}

TEST(SummarizeTest, ExtractiveWorksWithoutPromptsAndQuotesTheDocument) {
  TestServer server({.chat = false});
  v1::SummarizeRequest request;
  request.mutable_input()->set_text(kDocument);
  request.set_target_words(10);
  const auto result = Summarize(server, request);  // AUTO
  ASSERT_TRUE(result.status.ok()) << result.status.error_message();
  EXPECT_EQ(result.events.front().plan().strategy(), v1::SUMMARY_STRATEGY_EXTRACTIVE);
  int sentences = 0;
  for (const auto& event : result.events) {
    for (const v1::ByteSpan& source : event.text().sources()) {
      ++sentences;
      const std::string sentence = std::string(kDocument).substr(
          static_cast<size_t>(source.begin()),
          static_cast<size_t>(source.end() - source.begin()));
      EXPECT_THAT(event.text().text(), testing::HasSubstr(sentence));
    }
  }
  EXPECT_GT(sentences, 0);
  EXPECT_TRUE(result.events.back().has_final());
}

TEST(SummarizeTest, AbstractiveWithoutPromptsIsAFailedPrecondition) {
  TestServer server({.chat = false});
  v1::SummarizeRequest request;
  request.mutable_input()->set_text(kDocument);
  request.set_strategy(v1::SUMMARY_STRATEGY_ABSTRACTIVE);
  EXPECT_EQ(Summarize(server, request).status.error_code(), grpc::FAILED_PRECONDITION);
}

TEST(SummarizeTest, ReadsTokenIdsAsTheirText) {
  TestServer server;
  v1::SummarizeRequest request;
  const auto ids = *server.tokenizer().Encode(kDocument, false, false);
  request.mutable_input()->mutable_token_ids()->mutable_ids()->Add(ids.begin(),
                                                                   ids.end());
  request.set_max_new_tokens(2);
  EXPECT_TRUE(Summarize(server, request).status.ok());
}

}  // namespace
}  // namespace quire::server

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "absl/time/clock.h"
#include "tests/server/test_server.h"

namespace quire::server {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

StreamResult<v1::GenerateResponse> Generate(TestServer& server,
                                            const v1::GenerateRequest& request) {
  grpc::ClientContext context;
  return ReadAll(server.inference().Generate(&context, request));
}

v1::GenerateRequest Prompt(std::vector<int32_t> ids) {
  v1::GenerateRequest request;
  request.mutable_input()->mutable_token_ids()->mutable_ids()->Add(ids.begin(),
                                                                   ids.end());
  return request;
}

std::string TextOf(const std::vector<v1::GenerateResponse>& events) {
  std::string text;
  for (const auto& event : events) text += event.text().text();
  return text;
}

std::vector<int32_t> TokensOf(const std::vector<v1::GenerateResponse>& events) {
  std::vector<int32_t> ids;
  for (const auto& event : events) {
    for (const auto& token : event.text().tokens()) ids.push_back(token.token_id());
  }
  return ids;
}

TEST(GenerateTest, StreamsProgressTextAndAFinalEvent) {
  TestServer server;
  v1::GenerateRequest request = Prompt({300, 301, 302});
  request.set_max_new_tokens(4);
  request.set_logprobs(true);
  const auto result = Generate(server, request);
  ASSERT_TRUE(result.status.ok()) << result.status.error_message();

  const auto& queued = result.events.front().progress();
  EXPECT_EQ(queued.phase(), v1::PHASE_QUEUED);
  EXPECT_EQ(queued.done_tokens(), 0);
  EXPECT_EQ(queued.total_tokens(), 3);
  const auto& prefill = result.events[1].progress();
  EXPECT_EQ(prefill.phase(), v1::PHASE_PREFILL);
  EXPECT_EQ(prefill.done_tokens(), 3);

  EXPECT_THAT(TokensOf(result.events), ElementsAre(303, 304, 305, 306));
  EXPECT_EQ(TextOf(result.events),
            *server.tokenizer().Decode({303, 304, 305, 306}, false));

  const v1::GenerateFinal& final = result.events.back().final();
  EXPECT_EQ(final.finish_reason(), v1::FINISH_REASON_LENGTH);
  EXPECT_EQ(final.usage().prompt_tokens(), 3);
  EXPECT_EQ(final.usage().generated_tokens(), 4);
  EXPECT_EQ(final.model(), "tiny");
  EXPECT_GT(final.timings().time_to_first_token_seconds(), 0);
  EXPECT_GE(final.timings().total_seconds(),
            final.timings().time_to_first_token_seconds());
}

TEST(GenerateTest, ReportsLogprobsAndAlternatives) {
  TestServer server;
  v1::GenerateRequest request = Prompt({300});
  request.set_max_new_tokens(1);
  request.set_top_logprobs(2);
  const auto result = Generate(server, request);
  ASSERT_TRUE(result.status.ok());
  std::vector<v1::GeneratedToken> tokens;
  for (const auto& event : result.events) {
    for (const auto& token : event.text().tokens()) tokens.push_back(token);
  }
  ASSERT_EQ(tokens.size(), 1);
  EXPECT_EQ(tokens[0].logprob(), FakeLogprob(301));
  ASSERT_EQ(tokens[0].top_size(), 2);
  EXPECT_EQ(tokens[0].top(1).token_id(), 1);
  EXPECT_EQ(tokens[0].top(1).logprob(), -0.25f);
}

TEST(GenerateTest, UnsetMaxNewTokensIsTheModelsOwnLimitCutToTheContext) {
  TestServer server;
  EXPECT_EQ(
      Generate(server, Prompt({300})).events.back().final().usage().generated_tokens(),
      8);
  const auto result = Generate(server, Prompt(std::vector<int32_t>(253, 300)));
  ASSERT_TRUE(result.status.ok()) << result.status.error_message();
  EXPECT_EQ(result.events.back().final().usage().generated_tokens(), 3);
}

TEST(GenerateTest, TheModelsEndTokenEndsTheAnswerUnlessIgnored) {
  TestServer server;
  v1::GenerateRequest request = Prompt({8189});  // 8190, 8191, then 0, the end token
  const auto ended = Generate(server, request);
  EXPECT_EQ(ended.events.back().final().finish_reason(), v1::FINISH_REASON_EOS);
  EXPECT_EQ(ended.events.back().final().stop(), "");
  request.set_ignore_eos(true);
  request.set_logprobs(true);
  const auto went_on = Generate(server, request);
  EXPECT_EQ(went_on.events.back().final().finish_reason(), v1::FINISH_REASON_LENGTH);
  EXPECT_THAT(TokensOf(went_on.events), ElementsAre(8190, 8191, 0, 1, 2, 3, 4, 5));
}

TEST(GenerateTest, StopsAtAStopStringAndNamesIt) {
  TestServer server;
  // The engine must not be done before the stop is seen.
  server.fake().set_on_step(
      [](const StepInput&) { absl::SleepFor(absl::Milliseconds(2)); });
  const std::string stop = *server.tokenizer().Decode({310, 311}, false);
  const std::string all =
      *server.tokenizer().Decode({305, 306, 307, 308, 309, 310, 311}, false);
  v1::GenerateRequest request = Prompt({304});
  request.set_max_new_tokens(200);
  request.add_stop("never said, ever");
  request.add_stop(stop);
  const auto result = Generate(server, request);
  ASSERT_TRUE(result.status.ok()) << result.status.error_message();
  EXPECT_EQ(TextOf(result.events), all.substr(0, all.find(stop)));
  const v1::GenerateFinal& final = result.events.back().final();
  EXPECT_EQ(final.finish_reason(), v1::FINISH_REASON_STOP);
  EXPECT_EQ(final.stop(), stop);
  EXPECT_GE(final.usage().generated_tokens(), 7);
  EXPECT_LT(final.usage().generated_tokens(), 200);
}

TEST(GenerateTest, StopsAtAStopTokenOfTheRequestBeforeIt) {
  TestServer server;
  v1::GenerateRequest request = Prompt({300});
  request.set_max_new_tokens(200);
  request.add_stop_token_ids(303);
  request.set_logprobs(true);
  const auto result = Generate(server, request);
  ASSERT_TRUE(result.status.ok());
  EXPECT_THAT(TokensOf(result.events), ElementsAre(301, 302));
  EXPECT_EQ(result.events.back().final().finish_reason(), v1::FINISH_REASON_STOP);
  EXPECT_EQ(result.events.back().final().stop(),
            *server.tokenizer().Decode({303}, false));
}

TEST(GenerateTest, ReportsTheSeedItWasGivenOrChose) {
  TestServer server;
  v1::GenerateRequest request = Prompt({300});
  request.set_max_new_tokens(1);
  request.mutable_sampling()->set_seed(42);
  EXPECT_EQ(Generate(server, request).events.back().final().seed(), 42);
  request.mutable_sampling()->clear_seed();
  const uint64_t first = Generate(server, request).events.back().final().seed();
  EXPECT_NE(first, Generate(server, request).events.back().final().seed());
}

TEST(GenerateTest, SamplingOfTheRequestReplacesTheModelsFieldByField) {
  TestServer server;
  v1::GenerateRequest request = Prompt({300});
  request.set_max_new_tokens(1);
  request.mutable_sampling()->set_temperature(0.5f);
  request.mutable_sampling()->set_top_k(7);
  request.mutable_sampling()->set_penalize_prompt(true);
  ASSERT_TRUE(Generate(server, request).status.ok());
  const SamplingParams used = server.fake().steps().back().items.back().sampling;
  EXPECT_EQ(used.temperature, 0.5f);
  EXPECT_EQ(used.top_k, 7);
  EXPECT_EQ(used.top_p, 1.0f);
  EXPECT_TRUE(used.penalize_prompt);
}

TEST(GenerateTest, ReadsTextWithTheBeginTokensAndWithoutSpecialOnesInIt) {
  TestServer server({.begin_token = true});
  v1::GenerateRequest request;
  request.mutable_input()->set_text("Hello <|endoftext|> world");
  request.set_max_new_tokens(1);
  ASSERT_TRUE(Generate(server, request).status.ok());
  std::vector<TokenId> want =
      *server.tokenizer().Encode("Hello <|endoftext|> world", false, false);
  want.insert(want.begin(), 1);
  EXPECT_EQ(server.fake().steps()[0].items[0].tokens, want);
}

TEST(GenerateTest, RendersAChatWithTheModelsTemplate) {
  TestServer server;
  v1::GenerateRequest request;
  v1::ChatMessage& message = *request.mutable_input()->mutable_chat()->add_messages();
  message.set_role("user");
  message.set_content("Hello");
  request.set_max_new_tokens(1);
  ASSERT_TRUE(Generate(server, request).status.ok());
  EXPECT_EQ(server.fake().steps()[0].items[0].tokens,
            *server.tokenizer().Encode("user: Hello\nassistant:", false, true));

  message.set_role("nobody");
  const auto refused = Generate(server, request);
  EXPECT_EQ(refused.status.error_code(), grpc::INVALID_ARGUMENT);
  EXPECT_THAT(FieldViolation(refused.status), HasSubstr("no such role"));
}

TEST(GenerateTest, ChatWithoutATemplateIsAFailedPrecondition) {
  TestServer server({.chat = false});
  v1::GenerateRequest request;
  request.mutable_input()->mutable_chat()->add_messages()->set_role("user");
  const auto result = Generate(server, request);
  EXPECT_EQ(result.status.error_code(), grpc::FAILED_PRECONDITION);
  EXPECT_EQ(Reason(result.status), "NO_CHAT_TEMPLATE");
}

TEST(GenerateTest, AFailureOfTheRunnerEndsThatCallOnly) {
  TestServer server;
  server.fake().FailStep(0, absl::InternalError("device lost"));
  const auto failed = Generate(server, Prompt({300}));
  EXPECT_EQ(failed.status.error_code(), grpc::INTERNAL);
  EXPECT_THAT(failed.status.error_message(), HasSubstr("device lost"));
  EXPECT_TRUE(Generate(server, Prompt({300})).status.ok());
}

}  // namespace
}  // namespace quire::server

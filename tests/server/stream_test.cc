#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <thread>
#include <vector>

#include "absl/time/clock.h"
#include "tests/server/test_server.h"

// How many events an answer comes in.
namespace quire::server {
namespace {

using testing::ElementsAre;

TestServerOptions WithInterval(absl::Duration interval) {
  return {.calls = {.terms = {.stream_interval = interval}}};
}

v1::GenerateRequest LongAnswer(int32_t max_new_tokens) {
  v1::GenerateRequest request;
  request.mutable_input()->mutable_token_ids()->add_ids(300);
  request.set_max_new_tokens(max_new_tokens);
  request.set_logprobs(true);
  return request;
}

struct Answer {
  std::vector<int> sizes;  // tokens of each piece of text
  std::vector<int32_t> tokens;
  std::string text;
  v1::GenerateFinal final;
  absl::Duration took;
};

Answer Generate(TestServer& server, const v1::GenerateRequest& request) {
  const absl::Time start = absl::Now();
  grpc::ClientContext context;
  const auto result = ReadAll(server.inference().Generate(&context, request));
  EXPECT_TRUE(result.status.ok()) << result.status.error_message();
  Answer answer{.final = result.events.back().final(), .took = absl::Now() - start};
  for (const auto& event : result.events) {
    if (!event.has_text()) continue;
    answer.sizes.push_back(event.text().tokens_size());
    answer.text += event.text().text();
    for (const auto& token : event.text().tokens()) {
      answer.tokens.push_back(token.token_id());
    }
  }
  return answer;
}

TEST(StreamIntervalTest, FastTokensComeTogetherAndNoneIsLost) {
  TestServer server(WithInterval(absl::Seconds(10)));
  const Answer answer = Generate(server, LongAnswer(100));
  std::vector<int32_t> want;
  for (int32_t id = 301; id <= 400; ++id) want.push_back(id);
  EXPECT_EQ(answer.tokens, want);
  EXPECT_EQ(answer.text, *server.tokenizer().Decode(want, false));
  // The first token at once, the others with the end, which does not wait either. More
  // may have been there when the handler came to look for the first.
  EXPECT_LE(answer.sizes.size(), 3u);
  EXPECT_LT(answer.took, absl::Seconds(5));
  EXPECT_EQ(answer.final.usage().generated_tokens(), 100);
  EXPECT_EQ(answer.final.finish_reason(), v1::FINISH_REASON_LENGTH);
}

TEST(StreamIntervalTest, ZeroIsAPieceAToken) {
  TestServer server(WithInterval(absl::ZeroDuration()));
  const Answer answer = Generate(server, LongAnswer(20));
  EXPECT_EQ(answer.sizes, std::vector<int>(20, 1));
}

TEST(StreamIntervalTest, TokensThatAreFurtherApartComeAtOnce) {
  TestServer server(WithInterval(absl::Milliseconds(1)));
  server.fake().set_on_step(
      [](const StepInput&) { absl::SleepFor(absl::Milliseconds(30)); });
  const Answer answer = Generate(server, LongAnswer(6));
  EXPECT_GE(answer.sizes.size(), 5u);  // a busy machine may join two
}

// Two answers at 20 pieces a second together: each waits 100 ms for its next piece.
TEST(StreamIntervalTest, ManyAnswersShareThePieces) {
  TestServerOptions options = WithInterval(absl::Milliseconds(1));
  options.calls.terms.stream_events_per_second = 20;
  TestServer server(options);
  server.fake().set_on_step(
      [](const StepInput&) { absl::SleepFor(absl::Milliseconds(5)); });
  Answer first, second;
  std::thread beside([&] { first = Generate(server, LongAnswer(200)); });
  second = Generate(server, LongAnswer(200));
  beside.join();
  for (const Answer& answer : {first, second}) {
    EXPECT_EQ(answer.tokens.size(), 200u);
    // 5 ms a token at least: 1 s in 10 pieces, and those before the other was seen.
    EXPECT_LE(answer.sizes.size(), 2 + absl::ToDoubleSeconds(answer.took) * 20);
    EXPECT_GE(answer.sizes.size(), 4u);
  }
}

TEST(StreamIntervalTest, AStopIsSeenInWhatCameTogether) {
  TestServer server(WithInterval(absl::Milliseconds(50)));
  v1::GenerateRequest request = LongAnswer(200);
  request.add_stop_token_ids(310);
  const Answer answer = Generate(server, request);
  EXPECT_EQ(answer.tokens.size(), 9u);
  EXPECT_EQ(answer.tokens.back(), 309);
  EXPECT_EQ(answer.final.finish_reason(), v1::FINISH_REASON_STOP);
}

TEST(StreamIntervalTest, ACancelledCallDoesNotWaitForItsNextPiece) {
  TestServer server(WithInterval(absl::Seconds(10)));
  server.fake().set_on_step(
      [](const StepInput&) { absl::SleepFor(absl::Milliseconds(1)); });
  grpc::ClientContext context;
  const auto reader = server.inference().Generate(&context, LongAnswer(200));
  v1::GenerateResponse event;
  while (reader->Read(&event) && !event.has_text()) {
  }
  const absl::Time start = absl::Now();
  context.TryCancel();
  EXPECT_EQ(reader->Finish().error_code(), grpc::CANCELLED);
  EXPECT_TRUE(server.WaitForMetric(
      "quire_request_seconds_count{code=\"CANCELLED\",method=\"Generate\"}", 1));
  EXPECT_LT(absl::Now() - start, absl::Seconds(5));
}

TEST(StreamIntervalTest, SummariesComeInPiecesToo) {
  std::vector<size_t> pieces;
  for (const absl::Duration interval : {absl::Seconds(10), absl::ZeroDuration()}) {
    TestServer server(WithInterval(interval));
    v1::SummarizeRequest request;
    request.mutable_input()->set_text("One thing happened. Then another did.");
    request.set_max_new_tokens(40);
    grpc::ClientContext context;
    const auto result = ReadAll(server.inference().Summarize(&context, request));
    ASSERT_TRUE(result.status.ok()) << result.status.error_message();
    pieces.push_back(0);
    for (const auto& event : result.events) pieces.back() += event.has_text();
  }
  EXPECT_LE(pieces[0], 3u);
  EXPECT_GT(pieces[1], 20u);
}

}  // namespace
}  // namespace quire::server

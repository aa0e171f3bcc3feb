#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <string>
#include <vector>

#include "absl/time/clock.h"
#include "tests/server/test_server.h"

namespace quire::server {
namespace {

using testing::HasSubstr;

StreamResult<v1::ScoreResponse> Score(TestServer& server,
                                      const v1::ScoreRequest& request) {
  grpc::ClientContext context;
  return ReadAll(server.inference().Score(&context, request));
}

// All blocks of a stream in one, checked to follow each other.
v1::TokenScores Join(const std::vector<v1::ScoreResponse>& events) {
  v1::TokenScores all;
  for (const auto& event : events) {
    if (!event.has_scores()) continue;
    EXPECT_EQ(event.scores().first_token(), all.token_ids_size());
    EXPECT_LE(event.scores().token_ids_size(), 4096);
    all.MergeFrom(event.scores());
  }
  return all;
}

TEST(ScoreTest, ReportsEveryTokenWithItsFirstByte) {
  TestServer server;
  const std::string text = "It was a bright cold day in April.";
  v1::ScoreRequest request;
  request.mutable_input()->set_text(text);
  request.mutable_options()->set_ranks(true);
  request.mutable_options()->set_top_logprobs(1);
  const auto result = Score(server, request);
  ASSERT_TRUE(result.status.ok()) << result.status.error_message();
  const Encoding want = *server.tokenizer().EncodeWithSpans(text, false, false);
  const auto n = static_cast<int>(want.ids.size());
  const v1::TokenScores all = Join(result.events);
  ASSERT_EQ(all.token_ids_size(), n);
  ASSERT_EQ(all.byte_offsets_size(), n);
  EXPECT_EQ(all.top_size(), n - 1);
  double sum = 0;
  for (int i = 0; i < n; ++i) {
    EXPECT_EQ(all.token_ids(i), want.ids[i]);
    EXPECT_EQ(all.byte_offsets(i), want.spans[i].begin);
    if (i == 0) {
      EXPECT_TRUE(std::isnan(all.logprobs(i)));
      EXPECT_EQ(all.ranks(i), 0);
    } else {
      EXPECT_EQ(all.logprobs(i), FakeLogprob(want.ids[i]));
      EXPECT_EQ(all.ranks(i), FakeRank(want.ids[i]));
      sum += all.logprobs(i);
    }
  }
  const v1::ScoreFinal& final = result.events.back().final();
  EXPECT_DOUBLE_EQ(final.logprob(), sum);
  EXPECT_EQ(final.scored_tokens(), n - 1);
  EXPECT_DOUBLE_EQ(final.perplexity(), std::exp(-sum / (n - 1)));
  EXPECT_EQ(final.windows(), 1);
  EXPECT_EQ(final.overlap_tokens(), 0);
  EXPECT_EQ(final.model(), "tiny");
}

TEST(ScoreTest, BeginTokensAreContextAndNotReported) {
  TestServer server({.begin_token = true});
  v1::ScoreRequest request;
  request.mutable_input()->set_text("Once upon a time");
  const auto result = Score(server, request);
  ASSERT_TRUE(result.status.ok());
  const auto want = *server.tokenizer().Encode("Once upon a time", false, false);
  const v1::TokenScores all = Join(result.events);
  ASSERT_EQ(all.token_ids_size(), want.size());
  EXPECT_EQ(all.token_ids(0), want[0]);
  EXPECT_EQ(all.logprobs(0), FakeLogprob(want[0]));
  EXPECT_EQ(all.byte_offsets(0), 0);
  EXPECT_EQ(result.events.back().final().scored_tokens(), want.size());
}

TEST(ScoreTest, SumsSpansByTheFirstByteOfEachToken) {
  TestServer server;
  const std::string text = "alpha beta gamma delta epsilon";
  v1::ScoreRequest request;
  request.mutable_input()->set_text(text);
  const std::vector<ByteSpan> spans = {{6, 16}, {0, 30}, {10, 10},
                                       {8, 9},  {6, 16}, {11, 30}};
  for (const ByteSpan& span : spans) {
    v1::ByteSpan& out = *request.mutable_options()->add_spans();
    out.set_begin(span.begin);
    out.set_end(span.end);
  }
  const auto result = Score(server, request);
  ASSERT_TRUE(result.status.ok()) << result.status.error_message();
  const v1::TokenScores all = Join(result.events);
  const v1::ScoreFinal& final = result.events.back().final();
  ASSERT_EQ(final.spans_size(), static_cast<int>(spans.size()));
  for (size_t s = 0; s < spans.size(); ++s) {
    double sum = 0;
    int64_t tokens = 0;
    for (int i = 1; i < all.token_ids_size(); ++i) {
      const bool inside =
          all.byte_offsets(i) >= spans[s].begin && all.byte_offsets(i) < spans[s].end;
      if (!inside) continue;
      sum += all.logprobs(i);
      ++tokens;
    }
    EXPECT_NEAR(final.spans(static_cast<int>(s)).logprob(), sum, 1e-9) << s;
    EXPECT_EQ(final.spans(static_cast<int>(s)).tokens(), tokens) << s;
  }
}

TEST(ScoreTest, ATextBeyondTheContextIsReadInWindows) {
  TestServer server;
  v1::ScoreRequest request;
  for (int i = 0; i < 600; ++i) {
    request.mutable_input()->mutable_token_ids()->add_ids(1 + i % 500);
  }
  request.mutable_options()->set_overlap_tokens(56);
  const auto result = Score(server, request);
  ASSERT_TRUE(result.status.ok()) << result.status.error_message();
  const v1::TokenScores all = Join(result.events);
  EXPECT_EQ(all.token_ids_size(), 600);
  EXPECT_EQ(all.byte_offsets_size(), 0);
  EXPECT_EQ(result.events.back().final().scored_tokens(), 599);
  EXPECT_EQ(result.events.back().final().windows(), 3);
  EXPECT_EQ(result.events.back().final().overlap_tokens(), 56);
  int32_t last_pass = 0;
  for (const auto& event : result.events) {
    if (!event.has_progress()) continue;
    EXPECT_GE(event.progress().pass(), last_pass);
    last_pass = event.progress().pass();
  }
  EXPECT_EQ(last_pass, 3);
}

// -----------------------------------------------------------------------------
// ScoreBatch

v1::ScoreBatchRequest Piece(const std::string& id, const std::string& text,
                            bool more = false) {
  v1::ScoreBatchRequest request;
  request.set_id(id);
  request.set_text(text);
  request.set_more(more);
  return request;
}

struct BatchResult {
  std::vector<v1::ScoreBatchResponse> events;
  grpc::Status status;
  // The last event of that id.
  std::map<std::string, v1::ScoreBatchResponse> last;
};

BatchResult ScoreBatch(TestServer& server,
                       const std::vector<v1::ScoreBatchRequest>& requests) {
  grpc::ClientContext context;
  const auto stream = server.inference().ScoreBatch(&context);
  for (const auto& request : requests) stream->Write(request);
  stream->WritesDone();
  BatchResult result;
  v1::ScoreBatchResponse event;
  while (stream->Read(&event)) {
    result.events.push_back(event);
    result.last[event.id()] = event;
  }
  result.status = stream->Finish();
  return result;
}

TEST(ScoreBatchTest, AnswersOneTextAfterTheOther) {
  TestServer server;
  const BatchResult result =
      ScoreBatch(server, {Piece("a", "Once upon"), Piece("b", "a time, a", true),
                          Piece("b", " very good"), Piece("c", "time it was")});
  ASSERT_TRUE(result.status.ok()) << result.status.error_message();
  ASSERT_EQ(result.last.size(), 3);
  std::string order;
  for (const auto& event : result.events) {
    if (order.empty() || order.back() != event.id()[0]) order += event.id();
  }
  EXPECT_EQ(order, "abc");
  const auto b = *server.tokenizer().Encode("a time, a very good", false, false);
  EXPECT_EQ(result.last.at("b").final().scored_tokens(), b.size() - 1);
}

TEST(ScoreBatchTest, OneTextsErrorDoesNotEndTheOthers) {
  TestServer server({.calls = {.limits = {.max_text_bytes = 20}}});
  v1::ScoreBatchRequest unknown = Piece("unknown", "text");
  unknown.mutable_options()->set_model("nosuch");
  v1::ScoreBatchRequest ids;
  ids.set_id("ids");
  ids.mutable_token_ids()->add_ids(8192);
  v1::ScoreBatchRequest other_kind;
  other_kind.set_id("mixed");
  other_kind.mutable_token_ids()->add_ids(1);
  v1::ScoreBatchRequest late_options = Piece("late", "b");
  late_options.mutable_options();
  const BatchResult result = ScoreBatch(
      server, {Piece("empty", ""), Piece("bad", "\xff"), unknown, ids,
               Piece("long", "0123456789", true), Piece("long", "0123456789x", true),
               Piece("long", "y"), Piece("mixed", "a", true), other_kind,
               Piece("late", "a", true), late_options, Piece("cut", "a", true),
               Piece("good", "Once upon"), Piece("open", "a", true)});
  ASSERT_TRUE(result.status.ok()) << result.status.error_message();
  const auto message = [&](const char* id) {
    const v1::ScoreError& error = result.last.at(id).error();
    return std::to_string(error.code()) + " " + error.message();
  };
  EXPECT_EQ(message("empty"), "3 text is empty; it must hold at least one byte");
  EXPECT_EQ(message("bad"), "3 text is not UTF-8: byte 0 is the first bad one");
  EXPECT_EQ(message("unknown"), "5 model is 'nosuch'; this server has 'tiny'");
  EXPECT_EQ(message("ids"), "3 token_ids.ids[0] is 8192; it must be in [0, 8191]");
  EXPECT_EQ(message("long"), "3 text has 21 bytes so far; it must have at most 20");
  EXPECT_EQ(message("mixed"), "3 source is not of the kind of the text's first piece");
  EXPECT_EQ(message("late"),
            "3 options is set on a later piece; it must be on the first");
  EXPECT_EQ(message("cut"),
            "3 more was true for id 'cut'; the next message must go on with it, and has "
            "id 'good'");
  EXPECT_EQ(message("open"), "3 more was true for id 'open', but no further piece came");
  EXPECT_TRUE(result.last.at("good").has_final());
}

TEST(ScoreBatchTest, AnIdStillInWorkIsRefusedInItsTurn) {
  TestServer server;
  server.fake().Block();
  grpc::ClientContext context;
  const auto stream = server.inference().ScoreBatch(&context);
  stream->Write(Piece("a", "Once upon a time"));
  server.fake().WaitUntilBlocked();
  stream->Write(Piece("a", "Another text"));
  stream->Write(Piece("b", "The last"));
  stream->WritesDone();
  // The server has read the duplicate once it has answered the other call on its
  // connection.
  v1::ListModelsResponse models;
  grpc::ClientContext other;
  ASSERT_TRUE(server.models().ListModels(&other, {}, &models).ok());
  absl::SleepFor(absl::Milliseconds(50));
  server.fake().Release();
  std::vector<std::string> ends;
  v1::ScoreBatchResponse event;
  while (stream->Read(&event)) {
    if (event.has_final()) ends.push_back(event.id() + " final");
    if (event.has_error()) ends.push_back(event.id() + " " + event.error().message());
  }
  EXPECT_TRUE(stream->Finish().ok());
  EXPECT_THAT(
      ends,
      testing::ElementsAre(
          "a final", "a id is 'a'; it must not be one that is still in work", "b final"));
}

TEST(ScoreBatchTest, AnIdThatNamesNothingEndsTheCall) {
  TestServer server;
  const BatchResult none = ScoreBatch(server, {Piece("", "text")});
  EXPECT_EQ(none.status.error_code(), grpc::INVALID_ARGUMENT);
  EXPECT_EQ(FieldViolation(none.status), "id: id has 0 bytes; it must have 1 to 128");
  const BatchResult large = ScoreBatch(server, {Piece(std::string(129, 'i'), "text")});
  EXPECT_EQ(FieldViolation(large.status), "id: id has 129 bytes; it must have 1 to 128");
}

TEST(ScoreBatchTest, ACallThatSendsNothingIsEnded) {
  TestServer server({.calls = {.batch_idle = absl::Milliseconds(50)}});
  grpc::ClientContext context;
  const auto stream = server.inference().ScoreBatch(&context);
  const grpc::Status status = stream->Finish();
  EXPECT_EQ(status.error_code(), grpc::ABORTED);
  EXPECT_EQ(status.error_message(),
            "the client sent nothing for batch_idle_seconds (50ms)");
  EXPECT_EQ(Reason(status), "IDLE_CLIENT");
}

TEST(ScoreBatchTest, ReadingGoesOnWithinItsBounds) {
  TestServer server;
  std::vector<v1::ScoreBatchRequest> requests;
  for (int i = 0; i < 100; ++i)
    requests.push_back(Piece(std::to_string(i), "Once upon a time"));
  const BatchResult result = ScoreBatch(server, requests);
  ASSERT_TRUE(result.status.ok());
  EXPECT_EQ(result.last.size(), 100);
  for (const auto& [id, last] : result.last) EXPECT_TRUE(last.has_final()) << id;
}

}  // namespace
}  // namespace quire::server

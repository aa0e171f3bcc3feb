#include "client/client.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/synchronization/notification.h"
#include "client/error_details.h"
#include "client/score_pieces.h"
#include "tests/client/fake_server.h"

namespace quire::client {
namespace {

using ::testing::ElementsAre;
using testing::ErrorWithField;
using testing::ErrorWithRetryDelay;
using testing::FakeServer;
using testing::HappyScript;
using testing::Script;

// Time that passes only in the books.
struct FakeTime {
  std::vector<absl::Duration> waits;

  ClientHooks hooks() {
    ClientHooks hooks = ClientHooks::Default();
    hooks.sleep = [this](absl::Duration wait, const CancelToken&) {
      waits.push_back(wait);
    };
    hooks.random = [] { return 0.5; };
    return hooks;
  }
};

Client MakeClient(const std::string& address, FakeTime& time) {
  ClientOptions options;
  options.address = address;
  auto client = Client::Create(options, time.hooks());
  EXPECT_TRUE(client.ok()) << client.status();
  return *std::move(client);
}

v1::SummarizeRequest ShortText() {
  v1::SummarizeRequest request;
  request.mutable_input()->set_text("A text.");
  return request;
}

TEST(ClientTest, BadOptionsMakeNoClient) {
  ClientOptions options;
  options.address = "";
  EXPECT_EQ(Client::Create(options).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(ClientTest, StreamGivesEveryEventThenTheEnd) {
  FakeServer server(HappyScript());
  FakeTime time;
  auto stream = MakeClient(server.address(), time).Summarize(ShortText());
  std::vector<int> cases;
  std::string text;
  while (true) {
    const auto event = stream.Next();
    ASSERT_TRUE(event.ok()) << event.status();
    if (!event->has_value()) break;
    cases.push_back((*event)->event_case());
    if ((*event)->has_text()) text += (*event)->text().text();
  }
  EXPECT_THAT(cases, ElementsAre(1, 2, 2, 2, 2, 3, 3, 4));
  EXPECT_EQ(text, "Three caf\xC3\xA9 words.");
  EXPECT_EQ(stream.request_id(), "req-1");
  EXPECT_FALSE(stream.Next()->has_value());  // and stays at the end
}

TEST(ClientTest, CallbackErrorEndsTheCallAndNoOther) {
  FakeServer server(HappyScript());
  FakeTime time;
  Client client = MakeClient(server.address(), time);
  CallOptions call;
  call.cancel = std::make_shared<CancelToken>();
  auto stream = client.Summarize(ShortText(), call);
  int events = 0;
  const absl::Status status = stream.ForEach([&](const v1::SummarizeResponse&) {
    return ++events == 2 ? absl::DataLossError("enough") : absl::OkStatus();
  });
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(events, 2);
  EXPECT_EQ(stream.Next().status().code(), absl::StatusCode::kDataLoss);
  EXPECT_FALSE(call.cancel->cancelled());
  EXPECT_TRUE(client.ListModels(call).ok());
}

TEST(ClientTest, UnavailableBeforeTheFirstEventIsTriedAgain) {
  std::atomic<int> calls = 0;
  Script script = HappyScript();
  script.summarize = [&, happy = script.summarize](auto* context, const auto& request,
                                                   auto* writer) {
    if (++calls < 3) return grpc::Status(grpc::StatusCode::UNAVAILABLE, "loading");
    return happy(context, request, writer);
  };
  FakeServer server(script);
  FakeTime time;
  auto stream = MakeClient(server.address(), time).Summarize(ShortText());
  const auto first = stream.Next();
  ASSERT_TRUE(first.ok()) << first.status();
  EXPECT_TRUE((*first)->has_plan());
  EXPECT_EQ(calls, 3);
  EXPECT_THAT(time.waits, ElementsAre(absl::Milliseconds(200), absl::Milliseconds(400)));
}

TEST(ClientTest, UnavailableAfterTheFirstEventIsTheCallers) {
  std::atomic<int> calls = 0;
  Script script;
  script.summarize = [&](auto*, const auto&, auto* writer) {
    ++calls;
    v1::SummarizeResponse event;
    event.mutable_plan()->set_passes(1);
    writer->Write(event);
    return grpc::Status(grpc::StatusCode::UNAVAILABLE, "draining");
  };
  FakeServer server(script);
  FakeTime time;
  auto stream = MakeClient(server.address(), time).Summarize(ShortText());
  EXPECT_TRUE(stream.Next().ok());
  EXPECT_EQ(stream.Next().status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(calls, 1);
  EXPECT_TRUE(time.waits.empty());
}

TEST(ClientTest, RetryInfoOfAFullWaitingRoomIsHonoured) {
  std::atomic<int> calls = 0;
  Script script = HappyScript();
  script.count_tokens = [&](auto*, const auto&, auto* response) {
    if (++calls == 1) {
      return ErrorWithRetryDelay(grpc::StatusCode::RESOURCE_EXHAUSTED, "full",
                                 absl::Milliseconds(1500));
    }
    response->set_tokens(3);
    return grpc::Status::OK;
  };
  FakeServer server(script);
  FakeTime time;
  const auto count = MakeClient(server.address(), time).CountTokens({});
  ASSERT_TRUE(count.ok()) << count.status();
  EXPECT_EQ(count->tokens(), 3);
  EXPECT_THAT(time.waits, ElementsAre(absl::Milliseconds(1700)));
}

TEST(ClientTest, NobodyThereIsUnavailableAfterAllAttempts) {
  std::string address;
  {
    FakeServer gone{Script()};
    address = gone.address();
  }
  FakeTime time;
  const auto models = MakeClient(address, time).ListModels();
  EXPECT_EQ(models.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(time.waits.size(), 3u);
}

TEST(ClientTest, ErrorCarriesFieldAndRequestId) {
  Script script;
  script.generate = [](auto* context, const auto&, auto*) {
    context->AddTrailingMetadata("x-request-id", "abc");
    return ErrorWithField(grpc::StatusCode::INVALID_ARGUMENT, "bad sampling",
                          "sampling.top_p", "is 1.5; it must be in (0, 1]");
  };
  FakeServer server(script);
  FakeTime time;
  auto stream = MakeClient(server.address(), time).Generate({});
  const absl::Status status = stream.Next().status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(std::string(status.message()), "bad sampling");
  const ErrorDetails details = GetErrorDetails(status);
  ASSERT_EQ(details.field_violations.size(), 1u);
  EXPECT_EQ(details.field_violations[0].field, "sampling.top_p");
  EXPECT_EQ(details.field_violations[0].description, "is 1.5; it must be in (0, 1]");
  EXPECT_EQ(details.request_id, "abc");
  EXPECT_EQ(details.retry_delay, std::nullopt);
}

TEST(ClientTest, DetailsThatAreNotDetailsAreLeftOut) {
  const absl::Status status =
      ToAbslStatus(grpc::Status(grpc::StatusCode::INTERNAL, "oops", "\xFF\xFF\xFF"), "");
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_TRUE(GetErrorDetails(status).field_violations.empty());
  EXPECT_EQ(GetErrorDetails(status).request_id, "");
}

TEST(ClientTest, HugeRetryDelayDoesNotOverflow) {
  const absl::Status status = ToAbslStatus(
      ErrorWithRetryDelay(grpc::StatusCode::UNAVAILABLE, "later", absl::Seconds(1e17)),
      "");
  EXPECT_EQ(GetErrorDetails(status).retry_delay, absl::Hours(24));
}

TEST(ClientTest, RequestIdIsSent) {
  std::string seen;
  Script script;
  script.list_models = [&](auto* context, const auto&, auto*) {
    const auto& metadata = context->client_metadata();
    const auto it = metadata.find("x-request-id");
    if (it != metadata.end()) seen.assign(it->second.data(), it->second.size());
    return grpc::Status::OK;
  };
  std::optional<FakeServer> server(script);
  FakeTime time;
  CallOptions call;
  call.request_id = "mine-7";
  EXPECT_TRUE(MakeClient(server->address(), time).ListModels(call).ok());
  server.reset();
  EXPECT_EQ(seen, "mine-7");
}

TEST(ClientTest, BadCallOptionsAreRefusedBeforeSending) {
  FakeTime time;
  Client client = MakeClient("127.0.0.1:1", time);
  CallOptions call;
  call.request_id = "\n";
  EXPECT_EQ(client.ListModels(call).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(client.Generate({}, call).Next().status().code(),
            absl::StatusCode::kInvalidArgument);
  auto batch = client.ScoreBatch(call);
  EXPECT_EQ(batch.Send("a", {}).code(), absl::StatusCode::kAborted);
  EXPECT_EQ(batch.Next().status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(ClientTest, MessageBeyondTheSendLimitIsRefusedWithBothSizes) {
  FakeTime time;
  ClientOptions options;
  options.max_send_message_bytes = 64 << 10;
  const auto client = Client::Create(options, time.hooks());
  v1::SummarizeRequest request;
  request.mutable_input()->set_text(std::string(70'000, 'x'));
  const absl::Status status = client->Summarize(request).Next().status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(std::string(status.message()),
            "the request has 70008 bytes; max_send_message_bytes allows 65536");
}

// A server that waits until the client has gone, and says so.
Script Endless(absl::Notification& begun, absl::Notification& gone) {
  Script script;
  script.generate = [&](auto* context, const auto&, auto* writer) {
    v1::GenerateResponse event;
    event.mutable_text()->set_text("x");
    writer->Write(event);
    begun.Notify();
    while (!context->IsCancelled()) absl::SleepFor(absl::Milliseconds(1));
    gone.Notify();
    return grpc::Status::CANCELLED;
  };
  return script;
}

TEST(ClientTest, CancelFromAnotherThreadReachesTheServer) {
  absl::Notification begun, gone;
  FakeServer server(Endless(begun, gone));
  FakeTime time;
  CallOptions call;
  call.cancel = std::make_shared<CancelToken>();
  auto stream = MakeClient(server.address(), time).Generate({}, call);
  std::thread canceller([&] {
    begun.WaitForNotification();
    call.cancel->Cancel();
  });
  absl::Status status;
  while (status.ok()) status = stream.Next().status();
  canceller.join();
  EXPECT_EQ(status.code(), absl::StatusCode::kCancelled);
  EXPECT_TRUE(gone.WaitForNotificationWithTimeout(absl::Seconds(10)));
}

TEST(ClientTest, DestroyingAStreamCancelsItsCall) {
  absl::Notification begun, gone;
  FakeServer server(Endless(begun, gone));
  FakeTime time;
  {
    auto stream = MakeClient(server.address(), time).Generate({});
    EXPECT_TRUE(stream.Next().ok());
  }
  EXPECT_TRUE(gone.WaitForNotificationWithTimeout(absl::Seconds(10)));
}

TEST(ClientTest, CancelledTokenLetsNoCallOut) {
  std::atomic<int> calls = 0;
  Script script;
  script.list_models = [&](auto*, const auto&, auto*) {
    ++calls;
    return grpc::Status::OK;
  };
  FakeServer server(script);
  FakeTime time;
  CallOptions call;
  call.cancel = std::make_shared<CancelToken>();
  call.cancel->Cancel();
  EXPECT_EQ(MakeClient(server.address(), time).ListModels(call).status().code(),
            absl::StatusCode::kCancelled);
  EXPECT_EQ(calls, 0);
}

TEST(ClientTest, CancelDuringTheWaitForARetryIsACancel) {
  Script script;
  script.summarize = [](auto*, const auto&, auto*) {
    return grpc::Status(grpc::StatusCode::UNAVAILABLE, "loading");
  };
  FakeServer server(script);
  ClientOptions options;
  options.address = server.address();
  auto hooks = ClientHooks::Default();
  CallOptions call;
  call.cancel = std::make_shared<CancelToken>();
  hooks.sleep = [&](absl::Duration, const CancelToken&) { call.cancel->Cancel(); };
  const auto client = Client::Create(options, hooks);
  EXPECT_EQ(client->Summarize(ShortText(), call).Next().status().code(),
            absl::StatusCode::kCancelled);
}

TEST(ClientTest, DeadlineEndsTheCall) {
  absl::Notification begun, gone;
  FakeServer server(Endless(begun, gone));
  FakeTime time;
  CallOptions call;
  call.deadline = absl::Milliseconds(50);
  auto stream = MakeClient(server.address(), time).Generate({}, call);
  absl::Status status;
  while (status.ok()) status = stream.Next().status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded);
}

// Puts the pieces of a ScoreBatch call together and answers with the text's size.
Script Collecting(std::string& text, size_t& largest) {
  Script script;
  script.score_batch = [&](auto*, auto* stream) {
    v1::ScoreBatchRequest piece;
    while (stream->Read(&piece)) {
      largest = std::max(largest, piece.ByteSizeLong());
      text += piece.text();
      if (piece.more()) continue;
      v1::ScoreBatchResponse event;
      event.set_id(piece.id());
      event.mutable_final()->set_scored_tokens(static_cast<int64_t>(text.size()));
      stream->Write(event);
    }
    return grpc::Status::OK;
  };
  return script;
}

TEST(ClientTest, EveryEventOfALongTextComesThrough) {
  Script script;
  script.score_batch = [](auto*, auto* stream) {
    v1::ScoreBatchRequest piece;
    while (stream->Read(&piece)) {
    }
    v1::ScoreBatchResponse event;
    event.mutable_scores()->add_token_ids(7);
    stream->Write(event);
    event.mutable_importance()->add_importance(0.5f);
    stream->Write(event);
    event.mutable_sentences()->add_sentences()->set_importance(2);
    stream->Write(event);
    event.mutable_final()->mutable_receipt()->set_density(0.25);
    stream->Write(event);
    return grpc::Status::OK;
  };
  FakeServer server(script);
  FakeTime time;
  v1::ScoreRequest request;
  request.mutable_input()->set_text(std::string(kMaxWholeInputBytes + 1, 'x'));
  auto stream = MakeClient(server.address(), time).Score(request);
  EXPECT_EQ((*stream.Next())->scores().token_ids(0), 7);
  EXPECT_EQ((*stream.Next())->importance().importance(0), 0.5f);
  EXPECT_EQ((*stream.Next())->sentences().sentences(0).importance(), 2);
  EXPECT_EQ((*stream.Next())->final().receipt().density(), 0.25);
  EXPECT_FALSE(stream.Next()->has_value());
}

TEST(ClientTest, LongTextIsScoredInPieces) {
  std::string text;
  size_t largest = 0;
  std::optional<FakeServer> server(Collecting(text, largest));
  FakeTime time;
  v1::ScoreRequest request;
  std::string& sent = *request.mutable_input()->mutable_text();
  while (sent.size() < (size_t{6} << 20)) sent += "six mebibytes ";
  auto stream = MakeClient(server->address(), time).Score(request);
  const auto event = stream.Next();
  ASSERT_TRUE(event.ok()) << event.status();
  EXPECT_EQ((*event)->final().scored_tokens(), static_cast<int64_t>(sent.size()));
  EXPECT_FALSE(stream.Next()->has_value());
  server.reset();
  EXPECT_EQ(text, sent);
  EXPECT_LT(largest, kPieceBytes + 1024);
}

TEST(ClientTest, TheErrorOfATextInPiecesIsTheCallsError) {
  Script script;
  script.score_batch = [](auto*, auto* stream) {
    v1::ScoreBatchRequest piece;
    while (stream->Read(&piece)) {
    }
    v1::ScoreBatchResponse event;
    event.mutable_error()->set_code(grpc::StatusCode::NOT_FOUND);
    event.mutable_error()->set_message("no such model");
    event.mutable_error()->set_reason("UNKNOWN_MODEL");
    stream->Write(event);
    return grpc::Status::OK;
  };
  FakeServer server(script);
  FakeTime time;
  v1::ScoreRequest request;
  request.mutable_input()->set_text(std::string(kMaxWholeInputBytes + 1, 'x'));
  const auto status = MakeClient(server.address(), time).Score(request).Next().status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(std::string(status.message()), "no such model");
  EXPECT_EQ(GetErrorDetails(status).reason, "UNKNOWN_MODEL");
  EXPECT_FALSE(GetErrorDetails(status).retry_delay.has_value());
}

TEST(ClientTest, ARefusalWhilePiecesAreSentIsTheCallsError) {
  Script script;
  script.score_batch = [](auto*, auto* stream) {
    v1::ScoreBatchRequest piece;
    stream->Read(&piece);
    return grpc::Status(grpc::StatusCode::INVALID_ARGUMENT, "not today");
  };
  FakeServer server(script);
  FakeTime time;
  v1::ScoreRequest request;
  request.mutable_input()->set_text(std::string(32 << 20, 'x'));
  const auto status = MakeClient(server.address(), time).Score(request).Next().status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
}

TEST(ClientTest, BatchAnswersEveryText) {
  Script script;
  script.score_batch = [](auto*, auto* stream) {
    v1::ScoreBatchRequest piece;
    while (stream->Read(&piece)) {
      v1::ScoreBatchResponse event;
      event.set_id(piece.id());
      event.mutable_final()->set_scored_tokens(piece.text().size());
      stream->Write(event);
    }
    return grpc::Status::OK;
  };
  FakeServer server(script);
  FakeTime time;
  auto batch = MakeClient(server.address(), time).ScoreBatch();
  v1::ScoreRequest request;
  for (const char* text : {"a", "bb", "ccc"}) {
    request.mutable_input()->set_text(text);
    EXPECT_TRUE(batch.Send(text, request).ok());
  }
  EXPECT_TRUE(batch.Done().ok());
  std::vector<std::pair<std::string, int>> answers;
  while (true) {
    const auto event = batch.Next();
    ASSERT_TRUE(event.ok()) << event.status();
    if (!event->has_value()) break;
    answers.emplace_back((*event)->id(), (*event)->final().scored_tokens());
  }
  EXPECT_THAT(answers,
              ElementsAre(std::pair("a", 1), std::pair("bb", 2), std::pair("ccc", 3)));
}

}  // namespace
}  // namespace quire::client

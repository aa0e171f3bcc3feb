#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/time/clock.h"
#include "tests/server/test_server.h"

// How calls end other than by themselves, and how the server comes and goes.
namespace quire::server {
namespace {

using testing::HasSubstr;

constexpr absl::Duration kSoon = absl::Seconds(20);

v1::GenerateRequest LongPrompt(int32_t max_new_tokens = 100) {
  v1::GenerateRequest request;
  for (int i = 0; i < 100; ++i)
    request.mutable_input()->mutable_token_ids()->add_ids(300 + i);
  request.set_max_new_tokens(max_new_tokens);
  return request;
}

// Until the engine has nothing in work any more.
bool WaitUntilIdle(TestServer& server) {
  const absl::Time end = absl::Now() + kSoon;
  while (server.Metric("quire_requests_running{model=\"tiny\"}") > 0) {
    if (absl::Now() > end) return false;
    absl::SleepFor(absl::Milliseconds(1));
  }
  return true;
}

TEST(CancelTest, ACancelledCallStopsAtTheNextChunk) {
  TestServer server;
  server.fake().Block();
  grpc::ClientContext context;
  const auto reader = server.inference().Generate(&context, LongPrompt());
  server.fake().WaitUntilBlocked();  // within the first of seven chunks
  v1::GenerateResponse queued;
  EXPECT_TRUE(reader->Read(&queued));  // the handler waits for the engine
  context.TryCancel();
  EXPECT_EQ(reader->Finish().error_code(), grpc::CANCELLED);
  EXPECT_TRUE(server.WaitForCancel());  // while the step in work is held up
  server.fake().Release();
  EXPECT_TRUE(server.WaitForMetric(
      "quire_request_seconds_count{code=\"CANCELLED\",method=\"Generate\"}", 1));
  EXPECT_TRUE(WaitUntilIdle(server));
  EXPECT_EQ(server.fake().num_steps(), 1);
  EXPECT_EQ(server.Metric("quire_cancelled_total{stage=\"prefill\"}"), 1);
}

TEST(CancelTest, AClientThatIsGoneStopsTheComputation) {
  TestServer server;
  server.fake().Block();
  {
    auto channel = server.NewChannel();
    const auto stub = v1::InferenceService::NewStub(channel);
    grpc::ClientContext context;
    const auto reader = stub->Generate(&context, LongPrompt());
    server.fake().WaitUntilBlocked();
    context.TryCancel();  // destroying a reader without reading to the end is not allowed
    reader->Finish();
  }
  EXPECT_TRUE(server.WaitForCancel());  // while the step in work is held up
  server.fake().Release();
  EXPECT_TRUE(server.WaitForMetric(
      "quire_request_seconds_count{code=\"CANCELLED\",method=\"Generate\"}", 1));
  EXPECT_TRUE(WaitUntilIdle(server));
  EXPECT_EQ(server.fake().num_steps(), 1);
}

TEST(CancelTest, AScoreBatchIsCancelledWhileItWaitsForTexts) {
  TestServer server;
  grpc::ClientContext context;
  const auto stream = server.inference().ScoreBatch(&context);
  v1::ScoreBatchRequest request;
  request.set_id("a");
  request.set_text("Once upon a time");
  stream->Write(request);
  v1::ScoreBatchResponse response;
  while (stream->Read(&response) && !response.has_final()) {
  }
  context.TryCancel();
  EXPECT_EQ(stream->Finish().error_code(), grpc::CANCELLED);
  EXPECT_TRUE(server.WaitForMetric(
      "quire_request_seconds_count{code=\"CANCELLED\",method=\"ScoreBatch\"}", 1));
}

TEST(DeadlineTest, ADeadlineThatPassesEndsTheCallAtTheNextChunk) {
  TestServer server;
  server.fake().Block();
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(100));
  const auto result = ReadAll(server.inference().Generate(&context, LongPrompt()));
  EXPECT_EQ(result.status.error_code(), grpc::DEADLINE_EXCEEDED);
  EXPECT_TRUE(server.WaitForCancel());  // while the step in work is held up
  server.fake().Release();
  // The server found out by itself, and says so in its own books.
  EXPECT_TRUE(server.WaitForMetric(
      "quire_request_seconds_count{code=\"DEADLINE_EXCEEDED\",method=\"Generate\"}", 1));
  EXPECT_TRUE(WaitUntilIdle(server));
  EXPECT_EQ(server.fake().num_steps(), 1);
}

TEST(DeadlineTest, ADeadlineAlreadyPastIsRefused) {
  TestServer server;
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() - std::chrono::seconds(1));
  const auto result = ReadAll(server.inference().Generate(&context, LongPrompt()));
  EXPECT_EQ(result.status.error_code(), grpc::DEADLINE_EXCEEDED);
  EXPECT_EQ(server.fake().num_steps(), 0);
}

// A client whose window does not grow, and a request whose events do not fit it.
class SlowReaderTest : public testing::Test {
 protected:
  explicit SlowReaderTest(absl::Duration stall = absl::Milliseconds(200))
      : server_({.calls = {.stream = {.max_queued = 2, .write_stall = stall}}}) {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);
    stub_ = v1::InferenceService::NewStub(server_.NewChannel(arguments));
    for (int i = 0; i < 5000; ++i) {
      request_.mutable_input()->mutable_token_ids()->add_ids(1 + i % 999);
    }
    request_.mutable_options()->set_top_logprobs(20);
  }

  bool WaitUntilLeft() {
    return server_.WaitForMetric(
        "quire_request_seconds_count{code=\"ABORTED\",method=\"Score\"}", 1);
  }

  TestServer server_;
  std::unique_ptr<v1::InferenceService::Stub> stub_;
  v1::ScoreRequest request_;
};

TEST_F(SlowReaderTest, IsLeftAfterTheStallAndToldWhy) {
  grpc::ClientContext context;
  const auto reader = stub_->Score(&context, request_);
  EXPECT_TRUE(WaitUntilLeft());
  EXPECT_TRUE(WaitUntilIdle(server_));
  EXPECT_LT(server_.Metric("quire_prompt_tokens_total"), 5000);
  // What was sent is still there, and then the reason.
  v1::ScoreResponse response;
  while (reader->Read(&response)) {
  }
  const grpc::Status status = reader->Finish();
  EXPECT_EQ(status.error_code(), grpc::ABORTED) << status.error_message();
  EXPECT_THAT(status.error_message(), HasSubstr("write_stall_seconds (200ms)"));
  EXPECT_EQ(Reason(status), "SLOW_READER");
}

TEST_F(SlowReaderTest, IsBrokenOffIfItNeverReadsAgain) {
  grpc::ClientContext context;
  const auto reader = stub_->Score(&context, request_);
  EXPECT_TRUE(WaitUntilLeft());
  // gRPC is done with the call although the client never read.
  EXPECT_TRUE(server_.state().WaitUntilIdle(kSoon));
  context.TryCancel();
  reader->Finish();
}

TEST(OverloadTest, OneCallMoreIsRefusedAtOnce) {
  TestServer server({.calls = {.max_running = 1, .max_waiting = 2}});
  server.fake().Block();
  std::vector<std::unique_ptr<grpc::ClientContext>> contexts;
  std::vector<std::unique_ptr<grpc::ClientReader<v1::GenerateResponse>>> readers;
  for (int i = 0; i < 3; ++i) {
    contexts.push_back(std::make_unique<grpc::ClientContext>());
    readers.push_back(server.inference().Generate(contexts.back().get(), LongPrompt(1)));
    v1::GenerateResponse queued;
    ASSERT_TRUE(readers.back()->Read(&queued));
    EXPECT_EQ(queued.progress().phase(), v1::PHASE_QUEUED);
  }
  server.fake().WaitUntilBlocked();
  EXPECT_EQ(server.Metric("quire_requests_waiting{model=\"tiny\"}"), 2);
  EXPECT_EQ(server.Metric("quire_requests_running{model=\"tiny\"}"), 1);
  EXPECT_EQ(server.Metric("quire_waiting_tokens{model=\"tiny\"}"), 200);

  grpc::ClientContext context;
  const absl::Time start = absl::Now();
  const auto refused = ReadAll(server.inference().Generate(&context, LongPrompt()));
  EXPECT_LT(absl::Now() - start, absl::Seconds(1));
  EXPECT_EQ(refused.status.error_code(), grpc::RESOURCE_EXHAUSTED);
  EXPECT_EQ(refused.status.error_message(),
            "max_running is 1 and max_waiting 2; as many calls are in work already");
  EXPECT_EQ(Reason(refused.status), "WAITING_ROOM_FULL");
  EXPECT_GE(RetrySeconds(refused.status), 0.1);
  EXPECT_LE(RetrySeconds(refused.status), 60);
  EXPECT_EQ(
      server.Metric("quire_admission_rejections_total{reason=\"waiting_room_full\"}"), 1);

  // Calls that only look things up are not behind those that compute.
  v1::CountTokensRequest count;
  count.mutable_input()->set_text("Once upon a time");
  v1::CountTokensResponse counted;
  grpc::ClientContext other;
  EXPECT_TRUE(server.inference().CountTokens(&other, count, &counted).ok());

  server.fake().Release();
  for (auto& reader : readers) EXPECT_TRUE(ReadAll(std::move(reader)).status.ok());
}

TEST(LoadingTest, CallsAreUnavailableUntilTheModelsAreLoaded) {
  TestServer server({.serve = false});
  grpc::ClientContext first;
  const auto early = ReadAll(server.inference().Generate(&first, LongPrompt(1)));
  EXPECT_EQ(early.status.error_code(), grpc::UNAVAILABLE);
  EXPECT_EQ(early.status.error_message(), "the models are still loading");
  EXPECT_EQ(Reason(early.status), "LOADING");
  EXPECT_EQ(RetrySeconds(early.status), 1);
  v1::ListModelsResponse models;
  grpc::ClientContext second;
  EXPECT_EQ(server.models().ListModels(&second, {}, &models).error_code(),
            grpc::UNAVAILABLE);
  EXPECT_EQ(server.Metric("quire_admission_rejections_total{reason=\"loading\"}"), 2);

  server.Serve();
  grpc::ClientContext third;
  EXPECT_TRUE(ReadAll(server.inference().Generate(&third, LongPrompt(1))).status.ok());
}

TEST(DrainTest, NewCallsAreRefusedAndThoseInWorkFinish) {
  TestServer server;
  server.fake().Block();
  grpc::ClientContext context;
  auto reader = server.inference().Generate(&context, LongPrompt(1));
  server.fake().WaitUntilBlocked();
  server.state().Drain();
  grpc::ClientContext late;
  const auto refused = ReadAll(server.inference().Generate(&late, LongPrompt(1)));
  EXPECT_EQ(refused.status.error_code(), grpc::UNAVAILABLE);
  EXPECT_EQ(Reason(refused.status), "DRAINING");
  EXPECT_EQ(RetrySeconds(refused.status), 5);
  EXPECT_FALSE(server.state().WaitUntilIdle(absl::ZeroDuration()));
  server.fake().Release();
  EXPECT_TRUE(ReadAll(std::move(reader)).status.ok());
  EXPECT_TRUE(server.state().WaitUntilIdle(kSoon));
}

TEST(DrainTest, WhatIsLeftAtTheEndIsCancelled) {
  TestServer server;
  server.fake().Block();
  grpc::ClientContext context;
  auto reader = server.inference().Generate(&context, LongPrompt());
  grpc::ClientContext batch_context;
  const auto batch = server.inference().ScoreBatch(&batch_context);
  server.fake().WaitUntilBlocked();
  server.state().Drain();
  std::thread canceller([&] { server.state().CancelAll(ServingState::ShuttingDown()); });
  server.fake().Release();
  const auto result = ReadAll(std::move(reader));
  canceller.join();
  EXPECT_EQ(result.status.error_code(), grpc::UNAVAILABLE);
  EXPECT_EQ(result.status.error_message(), "the server is shutting down");
  EXPECT_EQ(Reason(result.status), "DRAINING");
  EXPECT_EQ(batch->Finish().error_code(), grpc::UNAVAILABLE);
  EXPECT_TRUE(server.state().WaitUntilIdle(kSoon));
}

TEST(PortTest, APortInUseIsRefusedByName) {
  TestServer server;
  ServingState state;
  prometheus::Registry registry;
  Metrics metrics(registry);
  Log log(Log::Format::kJson, LogLevel::kError, [](const std::string&) {});
  CallServices services({}, state, metrics, log, SystemClock());
  const auto second = GrpcServer::Start({server.grpc().address(), 1 << 20}, services);
  EXPECT_EQ(second.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(
      std::string(second.status().message()),
      HasSubstr("listen is '" + server.grpc().address() + "'; cannot listen there"));
}

TEST(RequestIdTest, TheClientsIdComesBackAndIsLogged) {
  TestServer server;
  grpc::ClientContext context;
  context.AddMetadata("x-request-id", "my id 7");
  ASSERT_TRUE(ReadAll(server.inference().Generate(&context, LongPrompt(1))).status.ok());
  const auto& metadata = context.GetServerInitialMetadata();
  ASSERT_EQ(metadata.count("x-request-id"), 1);
  EXPECT_EQ(metadata.find("x-request-id")->second, "my id 7");
  ASSERT_EQ(server.log().size(), 1);
  EXPECT_THAT(server.log()[0],
              HasSubstr("\"request_id\":\"my id 7\",\"method\":\"Generate\""
                        ",\"code\":\"OK\""));
  EXPECT_THAT(server.log()[0], HasSubstr("\"prompt_tokens\":100,\"generated_tokens\":1"));
}

TEST(RequestIdTest, IsMadeIfTheClientsIsMissingOrTooLong) {
  TestServer server;
  for (const std::string& id : {std::string(), std::string(129, 'x')}) {
    grpc::ClientContext context;
    if (!id.empty()) context.AddMetadata("x-request-id", id);
    v1::ListModelsResponse models;
    ASSERT_TRUE(server.models().ListModels(&context, {}, &models).ok());
    const auto& metadata = context.GetServerInitialMetadata();
    ASSERT_EQ(metadata.count("x-request-id"), 1);
    EXPECT_EQ(metadata.find("x-request-id")->second.size(), 16);
  }
}

TEST(LogTest, HoldsTheFieldOfARefusalButNeverTheText) {
  TestServer server;
  v1::GenerateRequest request;
  request.mutable_input()->set_text("a very private text");
  request.add_stop("private stop");
  request.mutable_sampling()->set_top_p(2);
  grpc::ClientContext first;
  ReadAll(server.inference().Generate(&first, request));
  request.clear_sampling();
  request.set_model("private model");
  grpc::ClientContext second;
  ReadAll(server.inference().Generate(&second, request));
  request.clear_model();
  grpc::ClientContext third;
  ASSERT_TRUE(ReadAll(server.inference().Generate(&third, request)).status.ok());
  const std::vector<std::string> log = server.log();
  ASSERT_EQ(log.size(), 3);
  EXPECT_THAT(log[0],
              HasSubstr("\"field\":\"sampling.top_p\",\"reason\":\"INVALID_FIELD\""));
  EXPECT_THAT(log[1], HasSubstr("\"reason\":\"UNKNOWN_MODEL\""));
  for (const std::string& line : log) {
    EXPECT_THAT(line, testing::Not(HasSubstr("private")));
  }
}

}  // namespace
}  // namespace quire::server

#include "server/rpc/admission.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "absl/time/clock.h"
#include "tests/server/test_server.h"

// Who is let in, who is not and what they are told; whose turn it is.
namespace quire::server {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::StartsWith;

v1::GenerateRequest Prompt(int32_t first, int tokens, int32_t max_new_tokens = 1) {
  v1::GenerateRequest request;
  for (int i = 0; i < tokens; ++i) {
    request.mutable_input()->mutable_token_ids()->add_ids(first + i);
  }
  request.set_max_new_tokens(max_new_tokens);
  return request;
}

grpc::Status Generate(TestServer& server, const v1::GenerateRequest& request,
                      absl::Duration timeout = absl::InfiniteDuration(),
                      const std::string& tenant = "") {
  grpc::ClientContext context;
  if (timeout != absl::InfiniteDuration()) {
    context.set_deadline(absl::ToChronoTime(absl::Now() + timeout));
  }
  if (!tenant.empty()) context.AddMetadata("x-quire-tenant", tenant);
  return ReadAll(server.inference().Generate(&context, request)).status;
}

double Rejections(const TestServer& server, const std::string& reason) {
  return server.Metric("quire_admission_rejections_total{reason=\"" + reason + "\"}");
}

// Calls that wait or run until they are let go.
class Held {
 public:
  explicit Held(TestServer& server) : server_(server) {}

  void Start(const v1::GenerateRequest& request, const std::string& tenant = "") {
    contexts_.push_back(std::make_unique<grpc::ClientContext>());
    if (!tenant.empty()) contexts_.back()->AddMetadata("x-quire-tenant", tenant);
    readers_.push_back(server_.inference().Generate(contexts_.back().get(), request));
    v1::GenerateResponse queued;
    EXPECT_TRUE(readers_.back()->Read(&queued));
    EXPECT_EQ(queued.progress().phase(), v1::PHASE_QUEUED);
  }
  void Finish() {
    server_.fake().Release();
    for (auto& reader : readers_) EXPECT_TRUE(ReadAll(std::move(reader)).status.ok());
  }

 private:
  TestServer& server_;
  std::vector<std::unique_ptr<grpc::ClientContext>> contexts_;
  std::vector<std::unique_ptr<grpc::ClientReader<v1::GenerateResponse>>> readers_;
};

// ------------------------------------------------------------------------- waiting room

TEST(AdmissionTest, TooManyWaitingTokensAreRefusedBeforeAnyWork) {
  TestServer server(
      {.calls = {.max_running = 1, .max_waiting = 8}, .max_waiting_tokens = 150});
  server.fake().Block();
  Held held(server);
  held.Start(Prompt(300, 100));
  server.fake().WaitUntilBlocked();
  held.Start(Prompt(300, 100));

  grpc::Status refused;
  absl::Duration least = absl::InfiniteDuration();  // the machine may be busy
  for (int i = 0; i < 20; ++i) {
    const absl::Time start = absl::Now();
    refused = Generate(server, Prompt(300, 51));
    least = std::min(least, absl::Now() - start);
  }
  EXPECT_LT(least, absl::Milliseconds(10));
  EXPECT_EQ(refused.error_code(), grpc::RESOURCE_EXHAUSTED);
  EXPECT_EQ(refused.error_message(),
            "max_waiting_tokens is 150; prompts of 100 tokens wait already, and this one "
            "has 51");
  EXPECT_EQ(Reason(refused), "WAITING_ROOM_FULL");
  EXPECT_GE(RetrySeconds(refused), 0.1);
  EXPECT_LE(RetrySeconds(refused), 60);
  EXPECT_EQ(Rejections(server, "waiting_room_full"), 20);

  // An eighth of a text's bytes is the least it is thought to have: 408 / 8 = 51.
  v1::GenerateRequest text;
  text.mutable_input()->set_text(std::string(408, 'a'));
  text.set_max_new_tokens(1);
  EXPECT_THAT(Generate(server, text).error_message(), testing::EndsWith("one has 51"));
  v1::ScoreRequest score;
  score.mutable_input()->set_text(std::string(52 * 8, 'a'));
  grpc::ClientContext score_context;
  const auto scored = ReadAll(server.inference().Score(&score_context, score));
  EXPECT_EQ(Reason(scored.status), "WAITING_ROOM_FULL");
  EXPECT_TRUE(scored.events.empty());
  v1::SummarizeRequest summarize;
  summarize.mutable_input()->set_text(std::string(408, 'a'));
  grpc::ClientContext summarize_context;
  const auto summary =
      ReadAll(server.inference().Summarize(&summarize_context, summarize));
  EXPECT_EQ(Reason(summary.status), "WAITING_ROOM_FULL");
  EXPECT_TRUE(summary.events.empty());
  EXPECT_EQ(Rejections(server, "waiting_room_full"), 23);

  held.Start(Prompt(300, 50));  // there is room for this one
  held.Finish();
}

TEST(AdmissionTest, ATextOfABatchIsRefusedAndToldWhenToComeAgain) {
  TestServer server(
      {.calls = {.max_running = 1, .max_waiting = 8}, .max_waiting_tokens = 150});
  server.fake().Block();
  Held held(server);
  held.Start(Prompt(300, 100));
  server.fake().WaitUntilBlocked();
  held.Start(Prompt(300, 100));
  grpc::ClientContext context;
  const auto stream = server.inference().ScoreBatch(&context);
  v1::ScoreBatchRequest request;
  request.set_id("a");
  request.set_text(std::string(800, 'a'));
  ASSERT_TRUE(stream->Write(request));
  v1::ScoreBatchResponse response;
  ASSERT_TRUE(stream->Read(&response));
  EXPECT_EQ(response.id(), "a");
  EXPECT_EQ(response.error().code(), grpc::RESOURCE_EXHAUSTED);
  EXPECT_EQ(response.error().reason(), "WAITING_ROOM_FULL");
  EXPECT_GE(response.error().retry_seconds(), 0.1);
  held.Finish();
  request.set_id("b");
  request.set_text("Once upon a time");
  ASSERT_TRUE(stream->Write(request));
  stream->WritesDone();
  bool final = false;
  while (stream->Read(&response)) final = final || response.has_final();
  EXPECT_TRUE(final);
  EXPECT_TRUE(stream->Finish().ok());
}

TEST(AdmissionTest, ARequestLargerThanTheCacheIsRefusedWithTheSizes) {
  TestServer server({.kv_blocks = 2});  // 128 tokens, half a context
  const grpc::Status refused = Generate(server, Prompt(300, 130));
  EXPECT_EQ(refused.error_code(), grpc::RESOURCE_EXHAUSTED);
  EXPECT_THAT(refused.error_message(), HasSubstr("130"));
  EXPECT_THAT(refused.error_message(), HasSubstr("128"));
  EXPECT_EQ(Reason(refused), "REQUEST_TOO_LARGE");
  EXPECT_EQ(RetrySeconds(refused), -1);
  EXPECT_EQ(Rejections(server, "request_too_large"), 1);
  EXPECT_EQ(server.fake().num_steps(), 0);
}

// ------------------------------------------------------------------------------ deadline

// A second a row: nothing can be done in half a second.
TestServerOptions SlowMachine(AdmissionMode admission) {
  StepCost cost = DefaultStepCost();
  cost.row_ps = 1'000'000'000'000;
  return {.admission = admission, .step_cost = cost};
}

TEST(AdmissionTest, ADeadlineThatCannotBeMetIsRefusedAtOnce) {
  TestServer server(SlowMachine(AdmissionMode::kEnforce));
  const grpc::Status refused = Generate(server, Prompt(300, 20), absl::Seconds(5));
  EXPECT_EQ(refused.error_code(), grpc::RESOURCE_EXHAUSTED);
  // gRPC rounds the time left by as much as 1 %.
  EXPECT_THAT(refused.error_message(), testing::AnyOf(StartsWith("the deadline is 4.9"),
                                                      StartsWith("the deadline is 5.0")));
  EXPECT_THAT(refused.error_message(),
              HasSubstr("the first token is expected after 20.0"));
  EXPECT_EQ(Reason(refused), "DEADLINE_UNREACHABLE");
  EXPECT_GE(RetrySeconds(refused), 0.1);
  EXPECT_EQ(Rejections(server, "deadline_unreachable"), 1);
  EXPECT_EQ(server.fake().num_steps(), 0);
  EXPECT_TRUE(Generate(server, Prompt(300, 20), absl::Hours(1)).ok());
}

TEST(AdmissionTest, ReportLetsInAndCountsEachCallOnce) {
  TestServer server(SlowMachine(AdmissionMode::kReport));
  EXPECT_TRUE(Generate(server, Prompt(300, 20), absl::Seconds(5)).ok());
  EXPECT_EQ(server.Metric("quire_would_refuse_total"), 1);
  EXPECT_EQ(Rejections(server, "deadline_unreachable"), 0);
}

TEST(AdmissionTest, OffDoesNotCareAboutDeadlines) {
  TestServer server(SlowMachine(AdmissionMode::kOff));
  EXPECT_TRUE(Generate(server, Prompt(300, 20), absl::Seconds(5)).ok());
  EXPECT_EQ(server.Metric("quire_would_refuse_total"), 0);
}

TEST(AdmissionTest, PassesToComeCountForTheDeadline) {
  // A text of 1,000 tokens is read in windows of 256, in 1,400 s or so; its first window
  // takes 255.
  TestServer server(SlowMachine(AdmissionMode::kEnforce));
  v1::ScoreRequest request;
  for (int i = 0; i < 1000; ++i) {
    request.mutable_input()->mutable_token_ids()->add_ids(300 + i);
  }
  grpc::ClientContext context;
  context.set_deadline(absl::ToChronoTime(absl::Now() + absl::Seconds(600)));
  const auto refused = ReadAll(server.inference().Score(&context, request));
  EXPECT_EQ(Reason(refused.status), "DEADLINE_UNREACHABLE");
  grpc::ClientContext patient;
  patient.set_deadline(absl::ToChronoTime(absl::Now() + absl::Seconds(6000)));
  EXPECT_TRUE(ReadAll(server.inference().Score(&patient, request)).status.ok());
}

TEST(AdmissionTest, RetryDelayIsTheEstimateWithinBounds) {
  EXPECT_EQ(RetryDelay({}), absl::Milliseconds(100));
  EXPECT_EQ(RetryDelay({.first_token_delay = absl::Seconds(3)}), absl::Seconds(3));
  EXPECT_EQ(RetryDelay({.prefill_backlog = absl::Seconds(4),
                        .first_token_delay = absl::Seconds(3)}),
            absl::Seconds(4));
  EXPECT_EQ(RetryDelay({.first_token_delay = absl::InfiniteDuration()}),
            absl::Seconds(60));
}

TEST(AdmissionTest, LeastTokensOfAnInput) {
  v1::Input input;
  EXPECT_EQ(LeastTokens(input), 1);
  input.set_text(std::string(15, 'a'));
  EXPECT_EQ(LeastTokens(input), 1);
  input.set_text(std::string(80, 'a'));
  EXPECT_EQ(LeastTokens(input), 10);
  input.mutable_token_ids()->add_ids(5);
  input.mutable_token_ids()->add_ids(6);
  EXPECT_EQ(LeastTokens(input), 2);
  input.mutable_chat()->add_messages()->set_content(std::string(40, 'a'));
  input.mutable_chat()->add_messages()->set_content(std::string(40, 'b'));
  EXPECT_EQ(LeastTokens(input), 10);
}

// ---------------------------------------------------------------- priorities and tenants

TEST(SchedulingTest, CallsAreComputedTogether) {
  TestServer server;
  server.fake().Block();
  Held held(server);
  held.Start(Prompt(300, 2, 50));
  server.fake().WaitUntilBlocked();
  for (int32_t first : {1000, 2000, 3000}) held.Start(Prompt(first, 2, 50));
  held.Finish();
  size_t most = 0;
  for (const RecordedStep& step : server.fake().steps()) {
    most = std::max(most, step.items.size());
  }
  EXPECT_EQ(most, 4u);
  EXPECT_LT(server.fake().num_steps(), 60);  // 200 one by one
}

TEST(SchedulingTest, APriorityOutOfRangeIsRefused) {
  TestServer server;
  for (const int32_t priority : {-3, 3}) {
    v1::GenerateRequest generate = Prompt(300, 3);
    generate.set_priority(priority);
    const std::string sentence =
        " is " + std::to_string(priority) + "; it must be in [-2, 2]";
    const grpc::Status status = Generate(server, generate);
    EXPECT_EQ(status.error_code(), grpc::INVALID_ARGUMENT);
    EXPECT_EQ(FieldViolation(status), "priority: priority" + sentence);

    v1::ScoreRequest score;
    score.mutable_input()->set_text("Once");
    score.mutable_options()->set_priority(priority);
    grpc::ClientContext score_context;
    EXPECT_EQ(
        FieldViolation(ReadAll(server.inference().Score(&score_context, score)).status),
        "options.priority: options.priority" + sentence);

    v1::SummarizeRequest summarize;
    summarize.mutable_input()->set_text("Once.");
    summarize.set_priority(priority);
    grpc::ClientContext summarize_context;
    EXPECT_EQ(
        FieldViolation(
            ReadAll(server.inference().Summarize(&summarize_context, summarize)).status),
        "priority: priority" + sentence);
  }
  for (const int32_t priority : {-2, 2}) {
    v1::GenerateRequest generate = Prompt(300, 3);
    generate.set_priority(priority);
    EXPECT_TRUE(Generate(server, generate).ok());
  }
}

// The first tokens of the prompts, in the order they were begun.
std::vector<TokenId> Begun(TestServer& server) {
  std::vector<TokenId> firsts;
  for (const RecordedStep& step : server.fake().steps()) {
    for (const RecordedItem& item : step.items) {
      if (item.begin == 0) firsts.push_back(item.tokens[0]);
    }
  }
  return firsts;
}

TEST(SchedulingTest, AHigherPriorityGoesFirst) {
  TestServer server({.calls = {.max_running = 1, .max_waiting = 8}});
  server.fake().Block();
  Held held(server);
  held.Start(Prompt(300, 2));
  server.fake().WaitUntilBlocked();
  for (const int32_t priority : {-2, 0, 2, 1}) {
    v1::GenerateRequest request = Prompt(1000 + priority, 2);
    request.set_priority(priority);
    held.Start(request);
  }
  held.Finish();
  EXPECT_THAT(Begun(server), ElementsAre(300, 1002, 1001, 1000, 998));
}

TEST(SchedulingTest, TenantsTakeTurns) {
  TestServer server({.calls = {.max_running = 1, .max_waiting = 8}});
  server.fake().Block();
  Held held(server);
  held.Start(Prompt(300, 2));
  server.fake().WaitUntilBlocked();
  held.Start(Prompt(1000, 8), "a");
  held.Start(Prompt(1001, 8), "a");
  held.Start(Prompt(2000, 8), "b");
  held.Finish();
  // The second of a waits until b had its share.
  const std::vector<TokenId> begun = Begun(server);
  ASSERT_EQ(begun.size(), 4u);
  EXPECT_EQ(begun[3], 1001);
}

TEST(SchedulingTest, ATenantThatCannotBeIsRefusedByName) {
  TestServer server;
  const grpc::Status refused =
      Generate(server, Prompt(300, 2), absl::InfiniteDuration(), std::string(65, 'x'));
  EXPECT_EQ(refused.error_code(), grpc::INVALID_ARGUMENT);
  EXPECT_EQ(FieldViolation(refused),
            "x-quire-tenant: x-quire-tenant is '" + std::string(64, 'x') +
                "...', 65 bytes; it must have 1 to 64 printable ASCII characters");
  EXPECT_TRUE(
      Generate(server, Prompt(300, 2), absl::InfiniteDuration(), std::string(64, 'x'))
          .ok());
  v1::ListModelsResponse models;
  grpc::ClientContext context;
  context.AddMetadata("x-quire-tenant", "");
  EXPECT_EQ(server.models().ListModels(&context, {}, &models).error_code(),
            grpc::INVALID_ARGUMENT);
}

TEST(SchedulingTest, TheTenantIsLogged) {
  TestServer server;
  ASSERT_TRUE(
      Generate(server, Prompt(300, 2), absl::InfiniteDuration(), "acme corp").ok());
  ASSERT_EQ(server.log().size(), 1);
  EXPECT_THAT(server.log()[0], HasSubstr("\"tenant\":\"acme corp\",\"model\":\"tiny\""));
}

// --------------------------------------------------------------------------------- cache

TEST(PrefixCacheTest, CachedTokensReachTheFinalEventAndTheMetrics) {
  TestServer server({.prefix_caching = PrefixCaching::kPerTenant});
  const v1::GenerateRequest request = Prompt(300, 150, 4);
  std::vector<v1::GenerateFinal> finals;
  for (int i = 0; i < 2; ++i) {
    grpc::ClientContext context;
    const auto result = ReadAll(server.inference().Generate(&context, request));
    ASSERT_TRUE(result.status.ok()) << result.status.error_message();
    finals.push_back(result.events.back().final());
  }
  EXPECT_EQ(finals[0].usage().cached_tokens(), 0);
  EXPECT_EQ(finals[0].usage().prompt_tokens(), 150);
  // All but the last, after which the next one is chosen.
  EXPECT_EQ(finals[1].usage().cached_tokens(), 149);
  EXPECT_EQ(finals[1].usage().prompt_tokens(), 150);
  EXPECT_EQ(finals[1].usage().generated_tokens(), 4);
  EXPECT_EQ(server.Metric("quire_prefix_cached_tokens_total"), 149);
  EXPECT_EQ(server.Metric("quire_prompt_tokens_total"), 150 + 1);
  EXPECT_THAT(server.log()[1], HasSubstr("\"cached_tokens\":149"));

  // Another tenant finds nothing of it.
  grpc::ClientContext context;
  context.AddMetadata("x-quire-tenant", "other");
  const auto other = ReadAll(server.inference().Generate(&context, request));
  EXPECT_EQ(other.events.back().final().usage().cached_tokens(), 0);
}

}  // namespace
}  // namespace quire::server

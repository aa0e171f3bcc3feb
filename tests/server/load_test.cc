#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "absl/time/clock.h"
#include "server/model_cost.h"
#include "tests/server/test_server.h"

// How busy the server says it is, and what it says that calls would take.
namespace quire::server {
namespace {

using testing::HasSubstr;
using testing::StartsWith;

// ------------------------------------------------------------------------------- GetLoad

grpc::Status GetLoad(TestServer& server, v1::Load& load, const std::string& name = "") {
  v1::GetLoadRequest request;
  request.set_model(name);
  v1::GetLoadResponse response;
  grpc::ClientContext context;
  const grpc::Status status = server.models().GetLoad(&context, request, &response);
  load = response.load();
  return status;
}

v1::GenerateRequest Prompt(int tokens, int32_t max_new_tokens) {
  v1::GenerateRequest request;
  for (int i = 0; i < tokens; ++i) {
    request.mutable_input()->mutable_token_ids()->add_ids(300 + i);
  }
  request.set_max_new_tokens(max_new_tokens);
  return request;
}

TEST(GetLoadTest, OfAnIdleServer) {
  TestServer server(
      {.calls = {.max_running = 5, .max_waiting = 7}, .max_waiting_tokens = 9000});
  v1::Load load;
  ASSERT_TRUE(GetLoad(server, load, "tiny").ok());
  EXPECT_EQ(load.model(), "tiny");
  EXPECT_EQ(load.running(), 0);
  EXPECT_EQ(load.waiting(), 0);
  EXPECT_EQ(load.max_running(), 5);
  EXPECT_EQ(load.max_waiting(), 7);
  EXPECT_EQ(load.waiting_tokens(), 0);
  EXPECT_EQ(load.max_waiting_tokens(), 9000);
  EXPECT_EQ(load.kv_blocks(), 16);
  EXPECT_EQ(load.kv_blocks_free(), 16);
  EXPECT_EQ(load.kv_blocks_cached(), 0);
  EXPECT_EQ(load.tokens_per_block(), 64);
  EXPECT_EQ(load.prefill_backlog_seconds(), 0);
  EXPECT_GT(load.first_token_seconds(), 0);
  EXPECT_EQ(load.tenants(), 0);
  EXPECT_FALSE(load.draining());
  EXPECT_EQ(load.dense_attention_macs(), 0);
  EXPECT_FALSE(load.has_first_token());
  EXPECT_FALSE(load.has_inter_token());
  EXPECT_FALSE(load.has_shadows());
}

TEST(GetLoadTest, TellsWhatWasDoneAndHowLongItTook) {
  TestServer server;
  grpc::ClientContext context;
  const auto reader = server.inference().Generate(&context, Prompt(100, 3));
  v1::GenerateResponse event, last;
  while (reader->Read(&event)) last = event;
  ASSERT_TRUE(reader->Finish().ok());
  v1::Load load;
  ASSERT_TRUE(GetLoad(server, load).ok());
  // The same numbers as the call's receipt.
  double executed = 0, dense = 0;
  for (const auto* work :
       {&last.final().receipt().prefill(), &last.final().receipt().decode()}) {
    executed += static_cast<double>(work->attention_macs() + work->selection_macs() +
                                    work->statistics_macs() + work->audit_macs());
    dense += static_cast<double>(work->dense_macs());
  }
  EXPECT_GT(dense, 0);
  EXPECT_EQ(load.attention_macs(), executed);
  EXPECT_EQ(load.dense_attention_macs(), dense);
  EXPECT_EQ(load.first_token().count(), 1);
  EXPECT_GT(load.first_token().p50(), 0);
  EXPECT_LE(load.first_token().p50(), load.first_token().p99());
  EXPECT_EQ(load.inter_token().count(), 2);
}

TEST(GetLoadTest, WhileOneRunsAndOneWaits) {
  TestServer server({.calls = {.max_running = 1, .max_waiting = 7}});
  server.fake().Block();
  std::vector<std::unique_ptr<grpc::ClientContext>> contexts;
  std::vector<std::unique_ptr<grpc::ClientReader<v1::GenerateResponse>>> readers;
  for (int i = 0; i < 2; ++i) {
    contexts.push_back(std::make_unique<grpc::ClientContext>());
    readers.push_back(server.inference().Generate(contexts.back().get(), Prompt(100, 3)));
    v1::GenerateResponse queued;
    ASSERT_TRUE(readers.back()->Read(&queued));
    server.fake().WaitUntilBlocked();
  }
  v1::Load load;
  ASSERT_TRUE(GetLoad(server, load).ok());
  EXPECT_EQ(load.running(), 1);
  EXPECT_EQ(load.waiting(), 1);
  EXPECT_EQ(load.waiting_tokens(), 100);
  EXPECT_EQ(load.kv_blocks_free(), 14);
  EXPECT_GT(load.prefill_backlog_seconds(), 0);
  EXPECT_GT(load.first_token_seconds(), 0);
  server.fake().Release();
  for (auto& reader : readers) EXPECT_TRUE(ReadAll(std::move(reader)).status.ok());
  ASSERT_TRUE(GetLoad(server, load).ok());
  EXPECT_EQ(load.prompt_tokens(), 200);
  EXPECT_EQ(load.generated_tokens(), 6);
  EXPECT_EQ(load.preemptions(), 0);
  // Whole seconds only, so this one must end first.
  const absl::Time end = absl::Now() + absl::Seconds(20);
  while (load.generated_tokens_per_second() == 0 && absl::Now() < end) {
    absl::SleepFor(absl::Milliseconds(20));
    ASSERT_TRUE(GetLoad(server, load).ok());
  }
  EXPECT_GT(load.generated_tokens_per_second(), 0);
  EXPECT_DOUBLE_EQ(load.prompt_tokens_per_second(),
                   load.generated_tokens_per_second() * 200 / 6);
}

TEST(GetLoadTest, OfAnUnknownModelAndWhileLoadingAndDraining) {
  TestServer server({.serve = false});
  v1::Load load;
  EXPECT_EQ(GetLoad(server, load).error_code(), grpc::UNAVAILABLE);
  server.Serve();
  EXPECT_EQ(GetLoad(server, load, "nosuch").error_code(), grpc::NOT_FOUND);
  server.state().Drain();
  ASSERT_TRUE(GetLoad(server, load).ok());
  EXPECT_TRUE(load.draining());
  v1::ListModelsResponse models;
  grpc::ClientContext context;
  EXPECT_EQ(server.models().ListModels(&context, {}, &models).error_code(),
            grpc::UNAVAILABLE);
}

// ---------------------------------------------------------------------------------- cost

// Two layers, 3 heads of 4 channels, one of keys: a token takes 2 * (8 * 20 + 12 * 8 +
// 3 * 8 * 16) = 1280 multiply-adds, its head 8 * 100.
ModelConfig SmallModel() {
  return {.num_layers = 2,
          .hidden_size = 8,
          .intermediate_size = 16,
          .num_heads = 3,
          .num_kv_heads = 1,
          .head_dim = 4,
          .vocab_size = 100};
}

TEST(ModelCostTest, DenseFlopsAreCountedByHand) {
  const PassShape pass{.prompt_tokens = 5, .new_tokens = 3};
  const ModelFlops flops =
      CountFlops(SmallModel(), {.mode = AttentionMode::kDense}, {&pass, 1});
  // 7 rows see 1 + ... + 7 = 28 tokens; 24 channels of queries.
  EXPECT_EQ(flops.attention, 4.0 * 24 * 28);
  EXPECT_EQ(flops.selection, 0);
  EXPECT_EQ(flops.total, 2.0 * (1280 * 7 + 800 * 3) + flops.attention);
}

TEST(ModelCostTest, ScoringTakesTheHeadForEveryToken) {
  const std::vector<PassShape> passes = {{.prompt_tokens = 5, .count = 2},
                                         {.prompt_tokens = 2}};
  const ModelFlops flops =
      CountFlops(SmallModel(), {.mode = AttentionMode::kDense}, passes);
  EXPECT_EQ(flops.attention, 4.0 * 24 * (2 * 15 + 3));
  EXPECT_EQ(flops.total, 2.0 * (1280 + 800) * 12 + flops.attention);
  EXPECT_EQ(PromptTokensOf(passes), 12);
  EXPECT_EQ(NewTokensOf(passes), 0);
  EXPECT_EQ(CountPasses(passes), 3);
}

TEST(ModelCostTest, SparseRowsReadAFixedNumberAndLookAtTheRest) {
  const PassShape pass{.prompt_tokens = 5000, .new_tokens = 1};
  const ModelFlops flops =
      CountFlops(SmallModel(), {.mode = AttentionMode::kAuto}, {&pass, 1});
  // Rows that see 4096 to 5000 tokens are sparse: 460 columns and all but 192 scanned.
  const double dense = 4095.0 * 4096 / 2;
  const double scanned = (5000.0 * 5001 - 4095.0 * 4096) / 2 - 905.0 * 192;
  EXPECT_FLOAT_EQ(static_cast<float>(flops.attention),
                  static_cast<float>(4.0 * 24 * (dense + 905 * 460.0)));
  EXPECT_DOUBLE_EQ(flops.selection, 2.0 * 24 * scanned);
}

v1::EstimateCostResponse Cost(TestServer& server,
                              const v1::EstimateCostRequest& request) {
  v1::EstimateCostResponse response;
  grpc::ClientContext context;
  const grpc::Status status =
      server.inference().EstimateCost(&context, request, &response);
  EXPECT_TRUE(status.ok()) << status.error_message();
  return response;
}

TEST(EstimateCostTest, OfAnAnswer) {
  TestServer server({.calls = {.terms = {.price_per_device_hour = 7200}}});
  v1::EstimateCostRequest request;
  request.set_prompt_tokens(100);
  request.set_max_new_tokens(20);
  const v1::EstimateCostResponse cost = Cost(server, request);
  EXPECT_EQ(cost.model(), "tiny");
  EXPECT_EQ(cost.prompt_tokens(), 100);
  EXPECT_EQ(cost.max_new_tokens(), 20);
  EXPECT_EQ(cost.passes(), 1);
  EXPECT_EQ(cost.dense().mode(), v1::ATTENTION_MODE_DENSE);
  EXPECT_EQ(cost.requested().mode(), v1::ATTENTION_MODE_AUTO);
  EXPECT_EQ(cost.dense().flops(), cost.requested().flops());  // all too short
  // The model of the tests: one layer, hidden 8, 16 inside, 2 heads and one of keys, of
  // 4 channels; 8192 tokens.
  EXPECT_EQ(cost.dense().attention_flops(), 4.0 * 8 * (119 * 120 / 2));
  EXPECT_EQ(cost.dense().flops(),
            2.0 * (576 * 119 + 65536.0 * 20) + cost.dense().attention_flops());
  const RequestEstimate alone =
      server.engine().Estimate({.prompt_tokens = 100,
                                .new_tokens = 20,
                                .attention = {.mode = AttentionMode::kDense}});
  EXPECT_DOUBLE_EQ(cost.dense().first_token_seconds(),
                   absl::ToDoubleSeconds(alone.first_token_alone));
  EXPECT_DOUBLE_EQ(cost.dense().end_seconds(), absl::ToDoubleSeconds(alone.end_alone));
  EXPECT_GT(cost.dense().end_seconds(), cost.dense().first_token_seconds());
  EXPECT_DOUBLE_EQ(cost.dense().money(), 2 * cost.dense().end_seconds());
  EXPECT_EQ(cost.price_per_device_hour(), 7200);
  EXPECT_DOUBLE_EQ(cost.first_token_seconds_now(),
                   cost.requested().first_token_seconds());  // idle
  EXPECT_DOUBLE_EQ(cost.end_seconds_now(), cost.requested().end_seconds());
  EXPECT_TRUE(cost.admissible());
  EXPECT_EQ(cost.refusal(), "");
  EXPECT_EQ(server.fake().num_steps(), 0);
}

TEST(EstimateCostTest, CountsTheTokensOfATextAsTheCallWould) {
  TestServer server({.begin_token = true});
  v1::EstimateCostRequest request;
  request.mutable_input()->set_text("Once upon a time");
  const int64_t tokens = static_cast<int64_t>(
      server.tokenizer().Encode("Once upon a time", false, false)->size());
  const v1::EstimateCostResponse cost = Cost(server, request);
  EXPECT_EQ(cost.prompt_tokens(), tokens + 1);
  EXPECT_EQ(cost.max_new_tokens(), 8);  // the model's own
  EXPECT_FALSE(cost.dense().has_money());
}

TEST(EstimateCostTest, ScoringALongTextTakesWindows) {
  TestServer server;
  v1::EstimateCostRequest request;
  request.set_task(v1::COST_TASK_SCORE);
  request.set_prompt_tokens(600);  // windows of 256 that share 64
  const v1::EstimateCostResponse cost = Cost(server, request);
  EXPECT_EQ(cost.passes(), 3);
  EXPECT_EQ(cost.prompt_tokens(), 255 + 255 + (600 - 2 * 192 - 1));
  EXPECT_EQ(cost.max_new_tokens(), 0);
  EXPECT_LT(cost.requested().first_token_seconds(), cost.requested().end_seconds() / 2);
}

TEST(EstimateCostTest, ALongDocumentIsSummarisedInParts) {
  TestServer server;
  v1::EstimateCostRequest request;
  request.set_task(v1::COST_TASK_SUMMARIZE);
  request.set_max_new_tokens(20);
  request.set_prompt_tokens(100);
  EXPECT_EQ(Cost(server, request).passes(), 1);
  EXPECT_EQ(Cost(server, request).max_new_tokens(), 20);
  request.set_prompt_tokens(600);
  const v1::EstimateCostResponse cost = Cost(server, request);
  EXPECT_GE(cost.passes(), 4);
  EXPECT_EQ(cost.max_new_tokens(), 20 * cost.passes());
  EXPECT_GT(cost.prompt_tokens(), 600);
  // The text comes with the last pass.
  EXPECT_GT(cost.dense().first_token_seconds(), cost.dense().end_seconds() / 2);
}

TEST(EstimateCostTest, TellsWhatTheLoadAdds) {
  TestServer server({.calls = {.max_running = 1, .max_waiting = 1}});
  server.fake().Block();
  std::vector<std::unique_ptr<grpc::ClientContext>> contexts;
  std::vector<std::unique_ptr<grpc::ClientReader<v1::GenerateResponse>>> readers;
  for (int i = 0; i < 2; ++i) {
    contexts.push_back(std::make_unique<grpc::ClientContext>());
    readers.push_back(
        server.inference().Generate(contexts.back().get(), Prompt(100, 50)));
    v1::GenerateResponse queued;
    ASSERT_TRUE(readers.back()->Read(&queued));
  }
  v1::EstimateCostRequest request;
  request.set_prompt_tokens(100);
  const v1::EstimateCostResponse cost = Cost(server, request);
  EXPECT_GT(cost.first_token_seconds_now(), cost.requested().first_token_seconds());
  EXPECT_GT(cost.end_seconds_now(), cost.requested().end_seconds());
  EXPECT_FALSE(cost.admissible());
  EXPECT_THAT(cost.refusal(), StartsWith("max_running is 1 and max_waiting is 1"));
  EXPECT_EQ(
      server.Metric("quire_admission_rejections_total{reason=\"waiting_room_full\"}"), 0);
  server.fake().Release();
  for (auto& reader : readers) EXPECT_TRUE(ReadAll(std::move(reader)).status.ok());
}

struct WrongCost {
  const char* name;
  void (*spoil)(v1::EstimateCostRequest&);
  const char* violation;
};

TEST(EstimateCostTest, RefusalsNameTheField) {
  TestServer server;
  const WrongCost cases[] = {
      {"NoInput", [](auto& r) { r.clear_prompt(); },
       "input: input is not set; it must hold one of text, token_ids and chat"},
      {"NoTokens", [](auto& r) { r.set_prompt_tokens(0); },
       "prompt_tokens: prompt_tokens is 0; it must be in [1, 1000000000]"},
      {"BeyondTheContext", [](auto& r) { r.set_prompt_tokens(256); },
       "input: input has 256 tokens; it must have at most 255, one less than the model's "
       "context"},
      {"ManyNewTokens", [](auto& r) { r.set_max_new_tokens(247); },
       "max_new_tokens: max_new_tokens is 247; it must be in [1, 246]: the input has 10 "
       "tokens and the model's context 256"},
      {"Task", [](auto& r) { r.set_task(static_cast<v1::CostTask>(9)); },
       "task: task is 9; it must be one of GENERATE, SCORE and SUMMARIZE"},
      {"Priority", [](auto& r) { r.set_priority(3); },
       "priority: priority is 3; it must be in [-2, 2]"},
      {"Eps", [](auto& r) { r.mutable_attention()->set_eps(2); },
       "attention.eps: attention.eps is 2; it must be in [0, 1]"},
      {"Chat",
       [](auto& r) {
         r.set_task(v1::COST_TASK_SCORE);
         r.mutable_input()->mutable_chat();
       },
       "input.chat: input.chat is for Generate; it must be text or token_ids"},
      {"ScoreTokens",
       [](auto& r) {
         r.set_task(v1::COST_TASK_SCORE);
         r.set_max_new_tokens(7);
       },
       "max_new_tokens: max_new_tokens is 7; it must not be set when the task is SCORE"},
      {"SummaryTokens",
       [](auto& r) {
         r.set_task(v1::COST_TASK_SUMMARIZE);
         r.set_max_new_tokens(256);
       },
       "max_new_tokens: max_new_tokens is 256; it must be in [1, 255]"},
  };
  for (const WrongCost& wrong : cases) {
    v1::EstimateCostRequest request;
    request.set_prompt_tokens(10);
    wrong.spoil(request);
    v1::EstimateCostResponse response;
    grpc::ClientContext context;
    const grpc::Status status =
        server.inference().EstimateCost(&context, request, &response);
    EXPECT_EQ(status.error_code(), grpc::INVALID_ARGUMENT) << wrong.name;
    EXPECT_EQ(FieldViolation(status), wrong.violation) << wrong.name;
  }
}

}  // namespace
}  // namespace quire::server

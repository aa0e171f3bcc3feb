#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "nlohmann/json.hpp"
#include "tests/client/cli_fixture.h"
#include "tests/client/fake_server.h"

// How busy a server is, what a call would take, and whose call it is.
namespace quire::cli {
namespace {

using client::testing::HappyScript;
using client::testing::Script;
using testing::CliTest;
using ::testing::HasSubstr;
using testing::Program;
using Json = nlohmann::json;

class CliLoadTest : public CliTest {
 protected:
  // Runs a command and keeps what the server saw of its metadata.
  Program::Result RunAndSee(std::vector<std::string> arguments) {
    Script script = HappyScript();
    script.summarize = [this, happy = script.summarize](
                           auto* context, const auto& request, auto* writer) {
      See(*context);
      priority_ = request.priority();
      return happy(context, request, writer);
    };
    script.generate = [this, happy = script.generate](auto* context, const auto& request,
                                                      auto* writer) {
      See(*context);
      priority_ = request.priority();
      return happy(context, request, writer);
    };
    script.score = [this, happy = script.score](auto* context, const auto& request,
                                                auto* writer) {
      See(*context);
      priority_ = request.options().priority();
      return happy(context, request, writer);
    };
    return Run(std::move(arguments), script);
  }

  void See(const grpc::ServerContext& context) {
    const auto found = context.client_metadata().find("x-quire-tenant");
    tenant_ = found == context.client_metadata().end()
                  ? "none"
                  : std::string(found->second.data(), found->second.size());
  }

  std::string tenant_;
  int priority_ = -9;
};

TEST_F(CliLoadTest, LoadIsATable) {
  const auto result = Run({"load"});
  EXPECT_EQ(result.code, 0);
  EXPECT_EQ(result.out,
            "model        fake\n"
            "running      3 of 256\n"
            "waiting      2 of 64, 1,234 of 1,048,576 tokens\n"
            "kv cache     25.0 % in use, 12.5 % kept for later, of 25,600 tokens\n"
            "backlog      1.50 s, first token of a short request after 0.25 s\n"
            "speed        512 tokens/s read, 58.8 written\n"
            "so far       9,000 tokens read, 6,000 found in the cache, 70 written, "
            "1 preemptions\n"
            "tenants      2\n");
  EXPECT_EQ(result.err, "");
}

TEST_F(CliLoadTest, LoadAsJsonOfTheNamedModel) {
  std::string asked;
  Script script = HappyScript();
  script.get_load = [&, happy = script.get_load](auto* context, const auto& request,
                                                 auto* response) {
    asked = request.model();
    return happy(context, request, response);
  };
  const auto result = Run({"load", "other", "--json"}, script);
  EXPECT_EQ(asked, "other");
  EXPECT_EQ(Json::parse(result.out), Json::parse(R"({"model": "fake", "running": 3,
      "waiting": 2, "max_running": 256, "max_waiting": 64, "waiting_tokens": 1234,
      "max_waiting_tokens": 1048576, "kv_blocks": 400, "kv_blocks_free": 300,
      "kv_blocks_cached": 50, "tokens_per_block": 64, "prefill_backlog_seconds": 1.5,
      "first_token_seconds": 0.25, "prompt_tokens_per_second": 512.4,
      "generated_tokens_per_second": 58.75, "prompt_tokens": 9000, "cached_tokens": 6000,
      "generated_tokens": 70, "preemptions": 1, "tenants": 2, "draining": false,
      "attention_macs": 3e12, "dense_attention_macs": 1.2e13,
      "first_token": {"count": 9, "p50": 0.31, "p95": 1.2, "p99": 1.5}})"));
  Run({"load", "--model", "mine"}, script);
  EXPECT_EQ(asked, "mine");
}

TEST_F(CliLoadTest, CostIsDenseBesideWhatWasAskedFor) {
  const auto result = Run({"cost", "-"});
  EXPECT_EQ(result.code, 0);
  EXPECT_EQ(result.out,
            "                    dense          auto\n"
            "work            1.5 TFLOP     1.2 TFLOP\n"
            "  attention     500 GFLOP    50.0 GFLOP\n"
            "  selection     0.0 MFLOP     200 GFLOP\n"
            "first token        20.0 s        10.0 s\n"
            "end                36.0 s        18.0 s\n");
  EXPECT_EQ(result.err,
            "reads 7 tokens, writes at most 512, in 1 pass; times are of an idle server\n"
            "with the load of now: first token after 12.0 s, end after 1 min 15 s\n");
}

TEST_F(CliLoadTest, CostWithAPriceAndARefusal) {
  Script script = HappyScript();
  script.estimate_cost = [happy = script.estimate_cost](
                             auto* context, const auto& request, auto* response) {
    const grpc::Status status = happy(context, request, response);
    response->mutable_dense()->set_money(0.02);
    response->mutable_requested()->set_money(0.01);
    response->set_admissible(false);
    response->set_refusal("the waiting room is full");
    return status;
  };
  const auto result = Run({"cost", "--tokens", "5000"}, script);
  EXPECT_THAT(result.out, HasSubstr("USD              0.020000      0.010000\n"));
  EXPECT_THAT(result.err, HasSubstr("reads 5,000 tokens"));
  EXPECT_THAT(result.err, HasSubstr("would be refused now: the waiting room is full\n"));
  const Json json = Json::parse(Run({"cost", "--tokens", "5000", "--json"}, script).out);
  EXPECT_EQ(json["prompt_tokens"], 5000);
  EXPECT_EQ(json["dense"]["flops"], 1.5e12);
  EXPECT_EQ(json["requested"]["mode"], "AUTO");
  EXPECT_EQ(json["requested"]["money"], 0.01);
  EXPECT_EQ(json["refusal"], "the waiting room is full");
}

TEST_F(CliLoadTest, EveryCostFlagIsSent) {
  v1::EstimateCostRequest seen;
  Script script = HappyScript();
  script.estimate_cost = [&, happy = script.estimate_cost](
                             auto* context, const auto& request, auto* response) {
    seen = request;
    return happy(context, request, response);
  };
  EXPECT_EQ(Run({"cost", "-", "--model", "m", "--task", "summarize", "--max-tokens", "9",
                 "--priority", "-2", "--attention", "refined"},
                script)
                .code,
            0);
  EXPECT_EQ(seen.ShortDebugString(),
            "model: \"m\" task: COST_TASK_SUMMARIZE input { text: \"A text.\" } "
            "max_new_tokens: 9 attention { mode: ATTENTION_MODE_REFINED } priority: -2");
}

TEST_F(CliLoadTest, CostTakesAFileOrANumber) {
  const auto result = Run({"cost", "-", "--tokens", "5"});
  EXPECT_EQ(result.code, 2);
  EXPECT_THAT(result.err, HasSubstr("FILE excludes --tokens"));
}

TEST_F(CliLoadTest, TenantAndPriorityAreSent) {
  for (const std::vector<std::string>& command : std::vector<std::vector<std::string>>{
           {"summarize", "-"}, {"ask", "-", "Who?"}, {"generate", "x"}, {"score", "-"}}) {
    EXPECT_EQ(RunAndSee(command).code, 0);
    EXPECT_EQ(tenant_, "none") << command[0];
    EXPECT_EQ(priority_, 0) << command[0];
    std::vector<std::string> more = command;
    more.insert(more.end(), {"--tenant", "acme", "--priority", "2"});
    EXPECT_EQ(RunAndSee(more).code, 0);
    EXPECT_EQ(tenant_, "acme") << command[0];
    EXPECT_EQ(priority_, 2) << command[0];
  }
}

TEST_F(CliLoadTest, ATenantThatCannotBeIsRefusedHere) {
  const auto result = Run({"load", "--tenant", std::string(65, 'x')});
  EXPECT_EQ(result.code, 2);
  EXPECT_EQ(result.err, "quire: tenant has 65 characters; at most 64 are allowed\n");
}

TEST_F(CliLoadTest, CachedTokensAreReported) {
  Script script = HappyScript();
  script.generate = [](auto*, const auto&, auto* writer) {
    v1::GenerateResponse event;
    v1::GenerateFinal& final = *event.mutable_final();
    final.mutable_usage()->set_prompt_tokens(6000);
    final.mutable_usage()->set_cached_tokens(5952);
    final.mutable_usage()->set_generated_tokens(2);
    final.mutable_timings()->set_prefill_seconds(0.5);
    final.mutable_timings()->set_decode_seconds(1);
    final.mutable_timings()->set_total_seconds(2);
    writer->Write(event);
    return grpc::Status::OK;
  };
  EXPECT_THAT(Run({"generate", "x"}, script).err,
              HasSubstr("read 6,000 tokens in 0.50 s (96.0/s), 5,952 of them cached, "
                        "wrote 2 in 1.00 s (2.00/s), total 2.00 s\n"));
  EXPECT_EQ(Json::parse(Run({"generate", "x", "--json"}, script).out)["usage"],
            Json::parse(R"({"prompt_tokens": 6000, "cached_tokens": 5952,
                            "generated_tokens": 2})"));
}

}  // namespace
}  // namespace quire::cli

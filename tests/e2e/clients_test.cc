#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "tests/e2e/rpc.h"

// Clients that leave, or that do not read: the server stops working for them and goes on.
namespace quire::e2e {
namespace {

using testing::HasSubstr;

class ClientsTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    server_ = std::make_unique<Server>(
        std::vector<std::string>{ModelFolder("quire-19m")},
        std::vector<std::string>{"--write-stall-seconds", "0.5"});
    ASSERT_TRUE(server_->ready()) << server_->log();
  }
  static void TearDownTestSuite() {
    EXPECT_EQ(server_->Stop(), 0) << server_->log();
    server_.reset();
  }
  // Nothing is left in work and no page is held: the whole window can be asked for.
  void TearDown() override {
    EXPECT_TRUE(server_->WaitForMetric("quire_requests_running{model=\"quire-19m\"}", 0));
    EXPECT_TRUE(
        server_->WaitForMetric("quire_kv_cache_usage_ratio{model=\"quire-19m\"}", 0));
    const ProcessResult next =
        RunQuire(*server_, {"generate", "The end", "--max-tokens", "4"});
    EXPECT_EQ(next.exit_code, 0) << next.err;
  }

  static inline std::unique_ptr<Server> server_;
};

// An answer that nobody waits for to its end.
std::vector<std::string> LongAnswer() {
  return {"generate", "Once upon a time", "--ignore-eos", "--max-tokens", "16000"};
}

std::string Ended(const std::string& method, const std::string& code) {
  return "quire_request_seconds_count{code=\"" + code + "\",method=\"" + method + "\"}";
}

TEST_F(ClientsTest, OneThatIsKilledIsNotComputedFor) {
  const auto quire = StartQuire(*server_, LongAnswer());
  ASSERT_TRUE(WaitUntil([&] { return !quire->out().empty(); })) << quire->err();
  EXPECT_EQ(server_->Metric("quire_requests_running{model=\"quire-19m\"}"), 1);
  EXPECT_GT(server_->Metric("quire_kv_cache_usage_ratio{model=\"quire-19m\"}"), 0);
  const double cancelled = server_->Metric("quire_cancelled_total{stage=\"decode\"}");
  quire->Signal(SIGKILL);
  EXPECT_EQ(quire->Wait().exit_code, 1000 + SIGKILL);
  EXPECT_TRUE(
      server_->WaitForMetric("quire_cancelled_total{stage=\"decode\"}", cancelled + 1));
  EXPECT_TRUE(server_->WaitForLog("\"code\":\"CANCELLED\""));
  EXPECT_LT(server_->Metric("quire_generated_tokens_total"), 16'000);
}

TEST_F(ClientsTest, OneThatIsInterruptedCancelsAndReturns130) {
  const double before = server_->Metric(Ended("Generate", "CANCELLED"));
  const auto quire = StartQuire(*server_, LongAnswer());
  ASSERT_TRUE(WaitUntil([&] { return !quire->out().empty(); })) << quire->err();
  quire->Signal(SIGINT);
  const ProcessResult result = quire->Wait();
  EXPECT_EQ(result.exit_code, 130);
  EXPECT_THAT(result.err, HasSubstr("quire: interrupted"));
  EXPECT_TRUE(server_->WaitForMetric(Ended("Generate", "CANCELLED"),
                                     before < 0 ? 1 : before + 1));
}

// 5,000 tokens with 20 alternatives each do not fit a connection's window.
TEST_F(ClientsTest, OneThatDoesNotReadIsLeft) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);
  RawClient client(server_->grpc(), arguments);
  v1::ScoreRequest request;
  for (int i = 0; i < 5000; ++i) {
    request.mutable_input()->mutable_token_ids()->add_ids(300 + i % 999);
  }
  request.mutable_options()->set_top_logprobs(20);
  grpc::ClientContext context;
  const auto reader = client.inference().Score(&context, request);
  EXPECT_TRUE(server_->WaitForMetric(Ended("Score", "ABORTED"), 1));
  EXPECT_TRUE(server_->WaitForLog("\"reason\":\"SLOW_READER\""));
  context.TryCancel();
  reader->Finish();
}

// Whether the server's own clock or the client's leaving ends it there is a race.
TEST_F(ClientsTest, OneWhoseTimeIsUpIsNotComputedFor) {
  const auto ended = [&] {
    return std::max(0.0, server_->Metric(Ended("Generate", "DEADLINE_EXCEEDED"))) +
           std::max(0.0, server_->Metric(Ended("Generate", "CANCELLED")));
  };
  const double before = ended();
  std::vector<std::string> arguments = LongAnswer();
  arguments.insert(arguments.end(), {"--timeout", "2"});
  const ProcessResult quire = RunQuire(*server_, arguments);
  EXPECT_EQ(quire.exit_code, 5);
  EXPECT_THAT(quire.err, HasSubstr("not done within --timeout 2"));
  EXPECT_TRUE(WaitUntil([&] { return ended() == before + 1; }));
}

TEST_F(ClientsTest, AReaderThatLeavesThePipeEndsTheCallQuietly) {
  const ProcessResult shell = [&] {
    Process process({"/bin/sh", "-c",
                     "{ \"$1\" --server \"$2\" generate 'Once upon a time' --ignore-eos "
                     "--max-tokens 16000; echo \"exit $?\" >&2; } | head -c 20",
                     "sh", QuireBinary(), server_->grpc()});
    return process.Wait();
  }();
  EXPECT_EQ(shell.exit_code, 0);
  EXPECT_EQ(shell.out.size(), 20u);
  EXPECT_EQ(shell.err, "exit 0\n");
}

}  // namespace
}  // namespace quire::e2e

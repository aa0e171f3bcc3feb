#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <string>

#include "absl/time/clock.h"
#include "prometheus/text_serializer.h"
#include "server/observability/http_endpoint.h"
#include "server/observability/service_routes.h"
#include "tests/server/http_client.h"
#include "tests/server/test_server.h"
#include "tests/support/temp_path.h"

namespace quire::server {
namespace {

using testing::HasSubstr;
using testing::Not;
using testing::StartsWith;

class ServiceRoutesTest : public testing::Test {
 protected:
  explicit ServiceRoutesTest(TestServerOptions options = {}) : server_(options) {
    auto endpoint = HttpEndpoint::Start(
        "127.0.0.1:0",
        {MetricsRoute({&server_.registry(), &server_.engines(), &process_}),
         HealthRoute(server_.state())});
    EXPECT_TRUE(endpoint.ok()) << endpoint.status();
    endpoint_ = *std::move(endpoint);
  }

  TestServer server_;
  ProcessCollector process_;
  std::unique_ptr<HttpEndpoint> endpoint_;
};

class LoadingServiceRoutesTest : public ServiceRoutesTest {
 protected:
  LoadingServiceRoutesTest() : ServiceRoutesTest({.serve = false}) {}
};

TEST_F(LoadingServiceRoutesTest, HealthFollowsThePhase) {
  EXPECT_THAT(Ask(endpoint_->address(), "GET", "/healthz"), StartsWith("HTTP/1.1 503 "));
  EXPECT_THAT(Ask(endpoint_->address(), "GET", "/healthz"),
              HasSubstr("\r\n\r\nloading\n"));
  EXPECT_THAT(Ask(endpoint_->address(), "GET", "/metrics"),
              Not(HasSubstr("quire_requests_running")));
  server_.Serve();
  EXPECT_THAT(Ask(endpoint_->address(), "GET", "/healthz"), StartsWith("HTTP/1.1 200 "));
  EXPECT_THAT(Ask(endpoint_->address(), "GET", "/healthz"), HasSubstr("\r\n\r\nok\n"));
  server_.state().Drain();
  EXPECT_THAT(Ask(endpoint_->address(), "GET", "/healthz"),
              HasSubstr("\r\n\r\ndraining\n"));
}

void MakeSomeCalls(TestServer& server) {
  v1::GenerateRequest generate;
  generate.mutable_input()->mutable_token_ids()->add_ids(300);
  generate.mutable_input()->mutable_token_ids()->add_ids(301);
  generate.set_max_new_tokens(5);
  grpc::ClientContext first;
  EXPECT_TRUE(ReadAll(server.inference().Generate(&first, generate)).status.ok());
  grpc::ClientContext second;
  EXPECT_TRUE(ReadAll(server.inference().Generate(&second, generate)).status.ok());
  generate.set_top_logprobs(99);
  grpc::ClientContext third;
  EXPECT_FALSE(ReadAll(server.inference().Generate(&third, generate)).status.ok());
  v1::ScoreRequest score;
  for (int id = 1; id <= 11; ++id)
    score.mutable_input()->mutable_token_ids()->add_ids(id);
  grpc::ClientContext fourth;
  EXPECT_TRUE(ReadAll(server.inference().Score(&fourth, score)).status.ok());
}

TEST_F(ServiceRoutesTest, CountsAKnownSetOfCalls) {
  MakeSomeCalls(server_);
  const auto is = [&](const std::string& series) { return server_.Metric(series); };
  EXPECT_EQ(is("quire_request_seconds_count{code=\"OK\",method=\"Generate\"}"), 2);
  EXPECT_EQ(
      is("quire_request_seconds_count{code=\"INVALID_ARGUMENT\",method=\"Generate\"}"),
      1);
  EXPECT_EQ(is("quire_request_seconds_count{code=\"OK\",method=\"Score\"}"), 1);
  EXPECT_EQ(is("quire_request_seconds_bucket{code=\"OK\",method=\"Score\",le=\"1800\"}"),
            1);
  EXPECT_EQ(is("quire_time_to_first_token_seconds_count{method=\"Generate\"}"), 2);
  EXPECT_EQ(is("quire_queue_seconds_count"), 3);
  EXPECT_EQ(is("quire_prompt_tokens_total"), 2 + 2 + 10);
  EXPECT_EQ(is("quire_generated_tokens_total"), 5 + 5);
  // The first token of an answer comes with the prompt's last chunk.
  EXPECT_EQ(is("quire_inter_token_latency_seconds_count"), 4 + 4);
  EXPECT_EQ(is("quire_requests_running{model=\"tiny\"}"), 0);
  EXPECT_EQ(is("quire_kv_cache_usage_ratio{model=\"tiny\"}"), 0);
  EXPECT_EQ(is("quire_build_info{version=\"" QUIRE_VERSION "\"}"), 1);
}

TEST_F(ServiceRoutesTest, CountsTheEnginesSteps) {
  // What takes no time has no ratio.
  server_.fake().set_on_step(
      [](const StepInput&) { absl::SleepFor(absl::Milliseconds(3)); });
  MakeSomeCalls(server_);
  const auto is = [&](const std::string& series) { return server_.Metric(series); };
  // Two answers of 5 steps, one text of one: one sequence each.
  EXPECT_EQ(is("quire_batch_sequences_count"), 11);
  EXPECT_EQ(is("quire_batch_sequences_sum"), 11);
  EXPECT_EQ(is("quire_batch_sequences_bucket{le=\"1\"}"), 11);
  EXPECT_EQ(is("quire_engine_step_seconds_count"), 11);
  EXPECT_EQ(is("quire_estimate_error_ratio_count{event=\"first_token\"}"), 3);
  EXPECT_EQ(is("quire_estimate_error_ratio_count{event=\"end\"}"), 3);
  // There from the start, so that rates over them are right for the first one too.
  for (const char* series :
       {"quire_wasted_tokens_total{stage=\"queue\"}",
        "quire_wasted_tokens_total{stage=\"prefill\"}",
        "quire_wasted_tokens_total{stage=\"decode\"}", "quire_preemptions_total",
        "quire_would_refuse_total", "quire_prefix_cached_tokens_total",
        "quire_recomputed_tokens_total",
        "quire_admission_rejections_total{reason=\"deadline_unreachable\"}",
        "quire_admission_rejections_total{reason=\"request_too_large\"}",
        "quire_kv_cache_cached_ratio{model=\"tiny\"}",
        "quire_prefill_backlog_seconds{model=\"tiny\"}",
        "quire_tenants{model=\"tiny\"}"}) {
    EXPECT_EQ(is(series), 0) << series;
  }
}

// What an engine reports, without an engine.
class StepMetricsTest : public testing::Test {
 protected:
  double Value(const std::string& series) const {
    const std::string page = prometheus::TextSerializer().Serialize(registry_.Collect());
    const size_t at = page.find("\n" + series + " ");
    return at == std::string::npos ? -1 : std::stod(page.substr(at + series.size() + 2));
  }

  prometheus::Registry registry_;
  Metrics metrics_{registry_};
  StepMetrics observer_{metrics_};
};

TEST_F(StepMetricsTest, AStepWithPromptsAndAnswersOfSeveralModes) {
  const absl::Duration gaps[] = {absl::Milliseconds(3), absl::Milliseconds(30)};
  StepReport step{.elapsed = absl::Milliseconds(7),
                  .sequences = 5,
                  .prompt_tokens = 100,
                  .generated_tokens = 3,
                  .recomputed_tokens = 11,
                  .inter_token = gaps};
  const auto set = [](AttentionStats& stats, int64_t macs) {
    stats.work.attention_macs = macs;
    stats.work.selection_macs = 2;
    stats.work.dense_macs = 10 * macs;
    stats.work.attention_bytes = 7;
    stats.work.dense_bytes = 70;
    stats.selection_seconds = 0.25;
  };
  set(step.prefill[static_cast<int>(AttentionMode::kDense)], 100);
  set(step.prefill[static_cast<int>(AttentionMode::kRefined)], 200);
  set(step.decode[static_cast<int>(AttentionMode::kAuto)], 400);
  observer_.OnStep(step);
  EXPECT_EQ(Value("quire_prompt_tokens_total"), 100);
  EXPECT_EQ(Value("quire_generated_tokens_total"), 3);
  EXPECT_EQ(Value("quire_recomputed_tokens_total"), 11);
  EXPECT_EQ(Value("quire_batch_sequences_sum"), 5);
  EXPECT_EQ(Value("quire_engine_step_seconds_sum"), 0.007);
  EXPECT_EQ(Value("quire_inter_token_latency_seconds_count"), 2);
  EXPECT_EQ(Value("quire_inter_token_latency_seconds_sum"), 0.033);
  EXPECT_EQ(Value("quire_attention_flops_total{mode=\"dense\",phase=\"prefill\"}"), 204);
  EXPECT_EQ(Value("quire_attention_flops_total{mode=\"refined\",phase=\"prefill\"}"),
            404);
  EXPECT_EQ(Value("quire_attention_flops_total{mode=\"auto\",phase=\"decode\"}"), 804);
  EXPECT_EQ(Value("quire_attention_flops_total{mode=\"dense\",phase=\"decode\"}"), 0);
  EXPECT_EQ(Value("quire_attention_flops_dense_equivalent_total{phase=\"prefill\"}"),
            6000);
  EXPECT_EQ(Value("quire_kv_bytes_read_total{phase=\"prefill\"}"), 14);
  EXPECT_EQ(Value("quire_kv_bytes_read_dense_equivalent_total{phase=\"decode\"}"), 70);
  EXPECT_EQ(Value("quire_attention_macs_total{mode=\"refined\",part=\"selection\","
                  "phase=\"prefill\"}"),
            2);
  EXPECT_EQ(Value("quire_selection_seconds_total"), 0.75);
}

TEST_F(StepMetricsTest, ARequestThatIsOver) {
  const AttentionReceipt receipt;
  observer_.OnFinished({.code = absl::StatusCode::kCancelled,
                        .stage = RequestStage::kDecode,
                        .started = true,
                        .usage = {.prompt_tokens = 50, .cached_tokens = 40},
                        .attention = receipt,
                        .wasted_tokens = 17,
                        .preemptions = 2,
                        .first_token_ratio = 1.05,
                        .end_ratio = 0});
  observer_.OnWouldRefuse();
  EXPECT_EQ(Value("quire_wasted_tokens_total{stage=\"decode\"}"), 17);
  EXPECT_EQ(Value("quire_wasted_tokens_total{stage=\"prefill\"}"), 0);
  EXPECT_EQ(Value("quire_preemptions_total"), 2);
  EXPECT_EQ(Value("quire_prefix_cached_tokens_total"), 40);
  EXPECT_EQ(Value("quire_would_refuse_total"), 1);
  EXPECT_EQ(Value("quire_estimate_error_ratio_bucket{event=\"first_token\",le=\"1\"}"),
            0);
  EXPECT_EQ(Value("quire_estimate_error_ratio_bucket{event=\"first_token\",le=\"1.1\"}"),
            1);
  EXPECT_EQ(Value("quire_estimate_error_ratio_count{event=\"end\"}"), 0);  // not known
}

TEST_F(ServiceRoutesTest, ProcessMetricsAreThoseOfThisProcess) {
  const std::string page = Ask(endpoint_->address(), "GET", "/metrics");
  for (const char* name : {"process_cpu_seconds_total", "process_start_time_seconds",
                           "process_resident_memory_bytes", "process_open_fds"}) {
    EXPECT_THAT(page, HasSubstr(std::string("\n") + name + " "));
  }
}

TEST_F(ServiceRoutesTest, PromtoolFindsNothingWrong) {
  if (std::system("promtool --version > /dev/null 2>&1") != 0) {
    GTEST_SKIP() << "promtool (Debian package prometheus) is not installed";
  }
  MakeSomeCalls(server_);
  const std::string answer = Ask(endpoint_->address(), "GET", "/metrics");
  const std::string path = TempPath("metrics_page");
  std::ofstream(path) << answer.substr(answer.find("\r\n\r\n") + 4);
  EXPECT_EQ(std::system(("promtool check metrics < '" + path + "'").c_str()), 0);
  std::remove(path.c_str());
}

}  // namespace
}  // namespace quire::server

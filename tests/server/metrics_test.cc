#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <string>

#include "absl/strings/str_cat.h"
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
  std::string Page() const {
    return prometheus::TextSerializer().Serialize(registry_.Collect());
  }
  double Value(const std::string& series) const {
    const std::string page = Page();
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

TEST_F(StepMetricsTest, AStepsModelWorkFollowsItsRows) {
  // Of a row: 3 * 8 * 16 MLP, 8 * (8 + 2 * 4) + 8 * 8 other, 8 * 100 head.
  observer_.SetModel({.num_layers = 2,
                      .hidden_size = 8,
                      .intermediate_size = 16,
                      .num_heads = 2,
                      .num_kv_heads = 1,
                      .head_dim = 4,
                      .vocab_size = 100});
  StepReport step{.rows = 10, .head_rows = 3};
  step.prefill_time[static_cast<int>(AttentionMode::kRefined)] = absl::Milliseconds(250);
  step.decode_time[static_cast<int>(AttentionMode::kDense)] = absl::Milliseconds(125);
  AttentionWork& work = step.prefill[static_cast<int>(AttentionMode::kRefined)].work;
  work.attention_macs = 100;
  work.selection_macs = 20;
  work.statistics_macs = 3;
  work.audit_macs = 4;
  work.expanded_columns = 7;
  observer_.OnStep(step);
  EXPECT_EQ(Value("quire_model_flops_total{part=\"attention\"}"), 200);
  EXPECT_EQ(Value("quire_model_flops_total{part=\"selection\"}"), 54);
  EXPECT_EQ(Value("quire_model_flops_total{part=\"mlp\"}"), 2 * 2 * 384 * 10);
  EXPECT_EQ(Value("quire_model_flops_total{part=\"other\"}"), 2 * 2 * 192 * 10);
  EXPECT_EQ(Value("quire_model_flops_total{part=\"lm_head\"}"), 2 * 800 * 3);
  EXPECT_EQ(Value("quire_groups_expanded_total"), 7);
  EXPECT_EQ(Value("quire_gpu_seconds_total{mode=\"refined\",phase=\"prefill\"}"), 0.25);
  EXPECT_EQ(Value("quire_gpu_seconds_total{mode=\"dense\",phase=\"decode\"}"), 0.125);
  EXPECT_EQ(Value("quire_gpu_seconds_total{mode=\"auto\",phase=\"decode\"}"), 0);
  EXPECT_EQ(Value("quire_shadow_device_seconds_total"), 0);
}

TEST_F(StepMetricsTest, BackgroundWorkIsNoUsers) {
  const std::string before = Page();
  StepReport step{.elapsed = absl::Seconds(1),
                  .sequences = 1,
                  .prompt_tokens = 50,
                  .generated_tokens = 1,
                  .background = true,
                  .rows = 51,
                  .head_rows = 1};
  const absl::Duration gaps[] = {absl::Milliseconds(3)};
  step.inter_token = gaps;
  step.prefill[1].work.attention_macs = 1000;
  step.prefill_time[1] = absl::Milliseconds(500);
  step.decode_time[1] = absl::Milliseconds(250);
  observer_.OnStep(step);
  AttentionReceipt receipt{.mode = AttentionMode::kDense};
  receipt.prefill.work.dense_columns = receipt.prefill.work.columns = 99;
  observer_.OnFinished({.usage = {.prompt_tokens = 50, .generated_tokens = 1},
                        .attention = receipt,
                        .wasted_tokens = 51,
                        .background = true,
                        .tenant = "acme"});
  EXPECT_EQ(Value("quire_shadow_device_seconds_total"), 0.75);
  // Nothing else has changed.
  const std::string line = "\nquire_shadow_device_seconds_total ";
  std::string after = Page();
  after.replace(after.find(line),
                after.find('\n', after.find(line) + 1) - after.find(line), line + "0");
  EXPECT_EQ(after, before);
}

TEST_F(StepMetricsTest, ColumnsAreCountedByTheRequestsLength) {
  const auto finish = [&](int64_t prompt, int64_t generated) {
    AttentionReceipt receipt;
    receipt.prefill.work.columns = prompt;
    receipt.decode.work.columns = generated;
    receipt.prefill.work.dense_columns = 10 * prompt;
    observer_.OnFinished(
        {.usage = {.prompt_tokens = prompt, .generated_tokens = generated},
         .attention = receipt});
  };
  finish(1023, 1);
  finish(1024, 1);
  finish(65536, 0);
  finish(65537, 0);
  const auto columns = [&](const char* context) {
    return Value(
        absl::StrCat("quire_attention_columns_total{context=\"", context, "\"}"));
  };
  EXPECT_EQ(columns("le_1024"), 1024);
  EXPECT_EQ(columns("le_4096"), 1025);
  EXPECT_EQ(columns("le_16384"), 0);
  EXPECT_EQ(columns("le_65536"), 65536);
  EXPECT_EQ(columns("more"), 65537);
  EXPECT_EQ(Value("quire_attention_columns_dense_equivalent_total{context=\"le_4096\"}"),
            10240);
}

TEST_F(StepMetricsTest, TenantsAreBoundedAndHostileNamesHarmless) {
  const AttentionReceipt receipt;
  const auto finish = [&](absl::string_view tenant) {
    observer_.OnFinished(
        {.usage = {.prompt_tokens = 10, .cached_tokens = 4, .generated_tokens = 2},
         .attention = receipt,
         .tenant = tenant});
  };
  finish("");
  finish("a\"b\nc\\d");
  finish("other");
  for (int i = 3; i < 1000; ++i) finish(absl::StrCat("tenant-", i));
  finish("tenant-19");
  finish("a\"b\nc\\d");
  const auto tokens = [&](const char* tenant, const char* kind) {
    return Value(absl::StrCat("quire_tenant_tokens_total{kind=\"", kind, "\",tenant=\"",
                              tenant, "\"}"));
  };
  EXPECT_EQ(tokens("", "prompt"), 6);
  EXPECT_EQ(tokens("a%22b%0Ac%5Cd", "prompt"), 12);
  EXPECT_EQ(tokens("%6Fther", "cached"), 4);
  EXPECT_EQ(tokens("tenant-19", "generated"), 4);
  EXPECT_EQ(tokens("tenant-20", "prompt"), -1);
  EXPECT_EQ(tokens("other", "prompt"), 6 * 980);
  EXPECT_EQ(tokens("other", "cached"), 4 * 980);
}

TEST_F(StepMetricsTest, SavingsAndLossesByWhatTheyAreKnownFrom) {
  metrics_.SetDeviceHourPrice(2.5);
  metrics_.OnSavings({.basis = SavingsBasis::kMeasured,
                      .own = absl::Seconds(1),
                      .dense = absl::Seconds(4),
                      .saved_usd = 0.5});
  metrics_.OnSavings({.basis = SavingsBasis::kMeasured,
                      .own = absl::Seconds(3),
                      .dense = absl::Seconds(2),
                      .saved_usd = -0.25});
  metrics_.OnSavings({.basis = SavingsBasis::kModelled,
                      .own = absl::Seconds(5),
                      .dense = absl::Seconds(7),
                      .saved_usd = 0.125});
  metrics_.OnSavings({.basis = SavingsBasis::kModelled,
                      .own = absl::Seconds(1),
                      .dense = absl::Seconds(1)});
  EXPECT_EQ(Value("quire_request_device_seconds_total{basis=\"measured\"}"), 4);
  EXPECT_EQ(Value("quire_request_dense_device_seconds_total{basis=\"measured\"}"), 6);
  EXPECT_EQ(Value("quire_request_device_seconds_total{basis=\"modelled\"}"), 6);
  EXPECT_EQ(Value("quire_request_dense_device_seconds_total{basis=\"modelled\"}"), 8);
  EXPECT_EQ(Value("quire_measured_savings_usd_total"), 0.5);
  EXPECT_EQ(Value("quire_measured_losses_usd_total"), 0.25);
  EXPECT_EQ(Value("quire_estimated_savings_usd_total"), 0.125);
  EXPECT_EQ(Value("quire_estimated_losses_usd_total"), 0);
  EXPECT_EQ(Value("quire_device_hour_price_usd"), 2.5);
}

TEST_F(StepMetricsTest, ShadowsAndWhyThereAreNone) {
  metrics_.OnShadow({.own = absl::Seconds(1),
                     .dense = absl::Milliseconds(1750),
                     .compared_tokens = 40,
                     .logprob_abs_delta = 0.004,
                     .top1_mismatches = 2});
  metrics_.OnShadow({.own = absl::Seconds(2), .dense = absl::Seconds(1)});  // no tokens
  metrics_.OnShadowSkipped(ShadowSkip::kBudget);
  metrics_.OnShadowSkipped(ShadowSkip::kTooLarge);
  metrics_.OnShadowSkipped(ShadowSkip::kTooLarge);
  EXPECT_EQ(Value("quire_shadow_samples_total"), 2);
  EXPECT_EQ(Value("quire_shadow_speedup_ratio_bucket{le=\"0.5\"}"), 1);
  EXPECT_EQ(Value("quire_shadow_speedup_ratio_bucket{le=\"1.5\"}"), 1);
  EXPECT_EQ(Value("quire_shadow_speedup_ratio_bucket{le=\"2\"}"), 2);
  EXPECT_EQ(Value("quire_shadow_speedup_ratio_sum"), 2.25);
  EXPECT_EQ(Value("quire_shadow_logprob_abs_delta_count"), 1);
  EXPECT_EQ(Value("quire_shadow_logprob_abs_delta_sum"), 0.004);
  EXPECT_EQ(Value("quire_shadow_compared_tokens_total"), 40);
  EXPECT_EQ(Value("quire_shadow_top1_mismatch_total"), 2);
  EXPECT_EQ(Value("quire_shadow_skipped_total{reason=\"budget\"}"), 1);
  EXPECT_EQ(Value("quire_shadow_skipped_total{reason=\"too_large\"}"), 2);
  EXPECT_EQ(Value("quire_shadow_skipped_total{reason=\"busy\"}"), 0);
}

TEST_F(StepMetricsTest, CodesThatTheServerDoesNotReturnAreOne) {
  metrics_.OnCall(Method::kScore, absl::StatusCode::kDataLoss, absl::Seconds(2));
  metrics_.OnCall(Method::kScore, static_cast<absl::StatusCode>(77), absl::Seconds(2));
  EXPECT_EQ(Value("quire_request_seconds_count{code=\"OTHER\",method=\"Score\"}"), 2);
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

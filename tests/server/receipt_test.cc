#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <functional>
#include <string>
#include <vector>

#include "absl/time/clock.h"
#include "tests/server/attention_calls.h"

// What requests are told of their attention: receipts, and the metrics of the same.
namespace quire::server {
namespace {

using A = v1::AttentionOptions;

void ExpectWork(const v1::AttentionWork& proto, const AttentionStats& stats) {
  EXPECT_EQ(proto.attention_macs(), stats.work.attention_macs);
  EXPECT_EQ(proto.selection_macs(), stats.work.selection_macs);
  EXPECT_EQ(proto.statistics_macs(), stats.work.statistics_macs);
  EXPECT_EQ(proto.audit_macs(), stats.work.audit_macs);
  EXPECT_EQ(proto.dense_macs(), stats.work.dense_macs);
  EXPECT_EQ(proto.attention_bytes(), stats.work.attention_bytes);
  EXPECT_EQ(proto.selection_bytes(), stats.work.selection_bytes);
  EXPECT_EQ(proto.statistics_bytes(), stats.work.statistics_bytes);
  EXPECT_EQ(proto.audit_bytes(), stats.work.audit_bytes);
  EXPECT_EQ(proto.dense_bytes(), stats.work.dense_bytes);
  EXPECT_EQ(proto.columns(), stats.work.columns);
  EXPECT_EQ(proto.dense_columns(), stats.work.dense_columns);
  EXPECT_NEAR(proto.seconds(), stats.seconds, 1e-9);
  EXPECT_NEAR(proto.selection_seconds(), stats.selection_seconds, 1e-9);
}

TEST(ReceiptTest, HoldsWhatTheRunnerCounted) {
  TestServer server;
  server.fake().set_audit_error([](const AttentionOptions&) { return 0.125; });
  v1::GenerateRequest request = Prompt(240, 3);
  request.mutable_attention()->set_mode(v1::ATTENTION_MODE_REFINED);
  request.mutable_attention()->set_eps(0.5f);
  const v1::Receipt receipt = ReceiptOf(server, request);
  // Chunks of 16; rows are sparse from position 192 on: 3 chunks and 2 decoded tokens.
  const AttentionOptions options{.mode = AttentionMode::kRefined, .eps = 0.5f};
  AttentionStats prefill = FakeAttention(options, 0, 240);
  prefill.work.audit_macs = 8 * (208 + 224 + 240);
  prefill.work.audit_bytes = 4 * (208 + 224 + 240);
  AttentionStats decode = FakeAttention(options, 240, 2);
  decode.work.audit_macs = 8 * (241 + 242);
  decode.work.audit_bytes = 4 * (241 + 242);
  ExpectWork(receipt.prefill(), prefill);
  ExpectWork(receipt.decode(), decode);
  EXPECT_EQ(receipt.mode(), v1::ATTENTION_MODE_REFINED);
  EXPECT_EQ(receipt.eps(), 0.5f);
  EXPECT_EQ(receipt.eps_lowered(), 0);
  EXPECT_FALSE(receipt.fell_back());
  EXPECT_EQ(receipt.note(), "");
  const AttentionWork all = [&] {
    AttentionWork sum = prefill.work;
    return sum += decode.work;
  }();
  EXPECT_DOUBLE_EQ(receipt.density(), static_cast<double>(all.columns) /
                                          static_cast<double>(all.dense_columns));
  EXPECT_DOUBLE_EQ(
      receipt.saved_macs_share(),
      1 - static_cast<double>(all.executed_macs()) / static_cast<double>(all.dense_macs));
  EXPECT_DOUBLE_EQ(receipt.coverage(), 0.75);
  EXPECT_DOUBLE_EQ(receipt.tail_risk(), 0.125);
  EXPECT_EQ(receipt.audited_tokens(), 5);
  EXPECT_DOUBLE_EQ(receipt.audited_error(), 0.125);
  EXPECT_DOUBLE_EQ(receipt.max_audited_error(), 0.125);
  EXPECT_EQ(receipt.kv_bytes_dropped(), 0);
}

TEST(ReceiptTest, TellsDeviceTimeAndWhatDenseAttentionWouldHaveTaken) {
  // A step is as good as free, a dense column costs ten times what a scanned one does.
  TestServer server({.calls = {.terms = {.price_per_device_hour = 3600}},
                     .step_cost = {.step_ps = 1,
                                   .prefill_column_ps = 10'000,
                                   .decode_column_ps = 10'000,
                                   .scanned_column_ps = 1'000}});
  v1::GenerateRequest request = Prompt(240);
  request.mutable_attention()->set_mode(v1::ATTENTION_MODE_REFINED);
  const v1::Receipt refined = ReceiptOf(server, request);
  EXPECT_GT(refined.device_seconds(), 0);
  EXPECT_GT(refined.modelled_dense_device_seconds(), refined.device_seconds());
  // A dollar a second.
  EXPECT_NEAR(refined.modelled_savings_usd(),
              refined.modelled_dense_device_seconds() - refined.device_seconds(), 1e-9);
  request.mutable_attention()->set_mode(v1::ATTENTION_MODE_DENSE);
  const v1::Receipt dense = ReceiptOf(server, request);
  EXPECT_GT(dense.device_seconds(), 0);
  EXPECT_EQ(dense.modelled_dense_device_seconds(), dense.device_seconds());
  EXPECT_EQ(dense.modelled_savings_usd(), 0);
}

TEST(ReceiptTest, SaysNothingOfMoneyWithoutAPrice) {
  TestServer server;
  const v1::Receipt receipt = ReceiptOf(server, Prompt(20));
  EXPECT_GT(receipt.device_seconds(), 0);
  EXPECT_FALSE(receipt.has_modelled_savings_usd());
}

TEST(ReceiptTest, ADenseOneHasNoErrorAndNoNote) {
  TestServer server;
  v1::GenerateRequest request = Prompt(240);
  request.mutable_attention()->set_mode(v1::ATTENTION_MODE_DENSE);
  const v1::Receipt receipt = ReceiptOf(server, request);
  EXPECT_EQ(receipt.density(), 1);
  EXPECT_EQ(receipt.saved_macs_share(), 0);
  EXPECT_FALSE(receipt.has_coverage());
  EXPECT_FALSE(receipt.has_tail_risk());
  EXPECT_EQ(receipt.audited_tokens(), 0);
  EXPECT_FALSE(receipt.has_audited_error());
  EXPECT_FALSE(receipt.has_max_audited_error());
  EXPECT_EQ(receipt.note(), "");
}

TEST(ReceiptTest, AShortTextThatWasReadDenselySaysSo) {
  TestServer server;
  const auto note = [&](int tokens, const std::function<void(A&)>& change) {
    v1::GenerateRequest request = Prompt(tokens, 1);
    change(*request.mutable_attention());
    return ReceiptOf(server, request).note();
  };
  const auto refined = [](A& a) { a.set_mode(v1::ATTENTION_MODE_REFINED); };
  EXPECT_EQ(note(192, refined),
            "all tokens were read densely: there are no more than the 192 first and last "
            "ones that always are");
  EXPECT_EQ(note(193, refined), "");
  EXPECT_EQ(note(240, [](A&) {}),
            "all tokens were read densely: none sees as many as min_sparse_tokens, 4096");
  EXPECT_EQ(note(240,
                 [&](A& a) {
                   refined(a);
                   a.set_min_sparse_tokens(241);
                 }),
            "all tokens were read densely: none sees as many as min_sparse_tokens, 241");
  EXPECT_EQ(note(240,
                 [&](A& a) {
                   refined(a);
                   a.set_eps(0);
                 }),
            "all tokens were read densely: eps is 0");
  EXPECT_EQ(note(16, Faithful),
            "all tokens were read densely: the text is no longer than what is kept as it "
            "is");
}

// Every handler asks the engine for what the model's runner will do.
TEST(ReceiptTest, AutoIsDenseWhereRefinedDoesNotPay) {
  TestServer slow({.refined_pays_from = kNeverPays});
  v1::GenerateRequest request = Prompt(240, 1);
  request.mutable_attention()->set_min_sparse_tokens(200);
  const v1::Receipt dense = ReceiptOf(slow, request);
  EXPECT_EQ(dense.mode(), v1::ATTENTION_MODE_AUTO);
  EXPECT_EQ(dense.density(), 1);
  EXPECT_FALSE(dense.has_coverage());
  EXPECT_EQ(dense.note(),
            "all tokens were read densely: AUTO is dense on this server, where REFINED "
            "takes longer");
  request.mutable_attention()->set_mode(v1::ATTENTION_MODE_REFINED);
  EXPECT_LT(ReceiptOf(slow, request).density(), 1);
  TestServer later({.refined_pays_from = 241});
  request.mutable_attention()->set_mode(v1::ATTENTION_MODE_AUTO);
  EXPECT_EQ(ReceiptOf(later, request).note(),
            "all tokens were read densely: none sees as many as 241, below which REFINED "
            "takes longer on this server");
  TestServer soon({.refined_pays_from = 240});
  EXPECT_LT(ReceiptOf(soon, request).density(), 1);
}

TEST(ReceiptTest, TellsOfAnErrorThatWasTooLarge) {
  std::atomic<bool> stays = false;
  TestServer server;
  v1::GenerateRequest request = Prompt(240, 10);
  request.mutable_attention()->set_mode(v1::ATTENTION_MODE_REFINED);
  request.mutable_attention()->set_eps(0.5f);
  request.mutable_attention()->set_max_error(0.25f);
  server.fake().set_audit_error(
      [&stays](const AttentionOptions& o) { return stays ? 0.5 : o.eps; });
  v1::Receipt receipt = ReceiptOf(server, request);
  EXPECT_EQ(receipt.eps(), 0.25f);
  EXPECT_EQ(receipt.eps_lowered(), 1);
  EXPECT_FALSE(receipt.fell_back());
  EXPECT_EQ(receipt.note(), "lowered eps, because the audited error was above max_error");
  EXPECT_EQ(receipt.max_audited_error(), 0.5);

  stays = true;
  receipt = ReceiptOf(server, request);
  EXPECT_EQ(receipt.eps(), 0.0625f);
  EXPECT_EQ(receipt.eps_lowered(), 3);
  EXPECT_TRUE(receipt.fell_back());
  EXPECT_EQ(receipt.note(),
            "went dense, because the audited error stayed above max_error");
  EXPECT_EQ(server.Metric("quire_dense_fallback_total{reason=\"max_error\"}"), 1);
}

TEST(ReceiptTest, CompactSaysWhatWasGivenBack) {
  TestServer server;
  server.fake().set_drop([](const StepItem&) { return std::vector<int32_t>{1, 2}; });
  v1::GenerateRequest request = Prompt(240, 3);
  request.mutable_attention()->set_mode(v1::ATTENTION_MODE_REFINED);
  request.mutable_attention()->set_compact(true);
  EXPECT_EQ(ReceiptOf(server, request).kv_bytes_dropped(), 2 * kTestBlockBytes);
}

TEST(ReceiptTest, AnAnswerCutByAStopStringHasOne) {
  TestServer server;
  server.fake().set_on_step(
      [](const StepInput&) { absl::SleepFor(absl::Milliseconds(2)); });
  v1::GenerateRequest request = Prompt(20, 200);
  request.add_stop_token_ids(322);
  const v1::Receipt receipt = ReceiptOf(server, request);
  EXPECT_EQ(receipt.prefill().dense_columns(), 20 * 21 / 2);
  EXPECT_GT(receipt.decode().dense_columns(), 0);
}

// ---------------------------------------------------------------------- metrics

TEST(AttentionMetricsTest, SumsAreTheReceipts) {
  TestServer server;
  server.fake().set_audit_error([](const AttentionOptions&) { return 0.03; });
  v1::GenerateRequest request = Prompt(240, 3);
  request.mutable_attention()->set_mode(v1::ATTENTION_MODE_REFINED);
  const v1::Receipt receipt = ReceiptOf(server, request);
  request.mutable_attention()->set_mode(v1::ATTENTION_MODE_DENSE);
  const v1::Receipt dense = ReceiptOf(server, request);
  const auto is = [&](const std::string& series) { return server.Metric(series); };
  for (const std::string phase : {"prefill", "decode"}) {
    const bool prefill = phase == "prefill";
    const v1::AttentionWork& work = prefill ? receipt.prefill() : receipt.decode();
    const v1::AttentionWork& dense_work = prefill ? dense.prefill() : dense.decode();
    const auto macs = [&](const std::string& mode, const std::string& part) {
      return is("quire_attention_macs_total{mode=\"" + mode + "\",part=\"" + part +
                "\",phase=\"" + phase + "\"}");
    };
    EXPECT_EQ(macs("refined", "attention"), work.attention_macs());
    EXPECT_EQ(macs("refined", "selection"), work.selection_macs());
    EXPECT_EQ(macs("refined", "statistics"), work.statistics_macs());
    EXPECT_EQ(macs("refined", "audit"), work.audit_macs());
    EXPECT_EQ(macs("dense", "attention"), dense_work.attention_macs());
    EXPECT_EQ(macs("faithful", "attention"), 0);
    EXPECT_EQ(is("quire_attention_flops_total{mode=\"refined\",phase=\"" + phase + "\"}"),
              2 * (work.attention_macs() + work.selection_macs() +
                   work.statistics_macs() + work.audit_macs()));
    EXPECT_EQ(is("quire_attention_flops_dense_equivalent_total{phase=\"" + phase + "\"}"),
              2 * (work.dense_macs() + dense_work.dense_macs()));
    EXPECT_EQ(is("quire_kv_bytes_read_total{phase=\"" + phase + "\"}"),
              work.attention_bytes() + work.selection_bytes() + work.statistics_bytes() +
                  work.audit_bytes() + dense_work.attention_bytes());
    EXPECT_EQ(is("quire_kv_bytes_read_dense_equivalent_total{phase=\"" + phase + "\"}"),
              work.dense_bytes() + dense_work.dense_bytes());
  }
  EXPECT_NEAR(
      is("quire_selection_seconds_total"),
      receipt.prefill().selection_seconds() + receipt.decode().selection_seconds(), 1e-9);
  EXPECT_EQ(is("quire_attention_density_ratio_count"), 2);
  EXPECT_NEAR(is("quire_attention_density_ratio_sum"), receipt.density() + 1, 1e-6);
  EXPECT_EQ(is("quire_attention_error_count"), 1);
  EXPECT_NEAR(is("quire_attention_error_sum"), 0.03, 1e-9);
  EXPECT_EQ(is("quire_dense_fallback_total{reason=\"max_error\"}"), 0);
  EXPECT_EQ(is("quire_dense_fallback_total{reason=\"short_text\"}"), 0);
}

TEST(AttentionMetricsTest, AShortTextForASparseModeIsAFallbackButNotForAuto) {
  TestServer server;
  v1::GenerateRequest request = Prompt(20);
  ReceiptOf(server, request);
  EXPECT_EQ(server.Metric("quire_dense_fallback_total{reason=\"short_text\"}"), 0);
  request.mutable_attention()->set_mode(v1::ATTENTION_MODE_REFINED);
  ReceiptOf(server, request);
  EXPECT_EQ(server.Metric("quire_dense_fallback_total{reason=\"short_text\"}"), 1);
}

}  // namespace
}  // namespace quire::server

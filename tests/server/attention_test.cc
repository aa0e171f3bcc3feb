#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/dga/probe_positions.h"
#include "tests/server/test_server.h"

// How requests choose their attention, what they are refused, and what they are told.
namespace quire::server {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

v1::GenerateRequest Prompt(int tokens, int32_t max_new_tokens = 2) {
  v1::GenerateRequest request;
  for (int i = 0; i < tokens; ++i) {
    request.mutable_input()->mutable_token_ids()->add_ids(300 + i);
  }
  request.set_max_new_tokens(max_new_tokens);
  return request;
}

v1::ScoreRequest Text(int tokens) {
  v1::ScoreRequest request;
  *request.mutable_input() = Prompt(tokens).input();
  return request;
}

StreamResult<v1::GenerateResponse> Generate(TestServer& server,
                                            const v1::GenerateRequest& request) {
  grpc::ClientContext context;
  return ReadAll(server.inference().Generate(&context, request));
}

StreamResult<v1::ScoreResponse> Score(TestServer& server,
                                      const v1::ScoreRequest& request) {
  grpc::ClientContext context;
  return ReadAll(server.inference().Score(&context, request));
}

v1::Receipt ReceiptOf(TestServer& server, const v1::GenerateRequest& request) {
  const auto result = Generate(server, request);
  EXPECT_TRUE(result.status.ok()) << result.status.error_message();
  return result.events.back().final().receipt();
}

AttentionOptions UsedOptions(TestServer& server) {
  return server.fake().steps().at(0).items.at(0).attention;
}

// ----------------------------------------------------------------------------- coming in

TEST(AttentionRequestTest, UnsetIsTheServersDefault) {
  TestServer server({.calls = {.defaults = {.attention = {.mode = AttentionMode::kRefined,
                                                          .eps = 0.25f,
                                                          .max_error = 0.5f,
                                                          .min_sparse_tokens = 300}}}});
  EXPECT_EQ(ReceiptOf(server, Prompt(3)).mode(), v1::ATTENTION_MODE_REFINED);
  const AttentionOptions used = UsedOptions(server);
  EXPECT_EQ(used.mode, AttentionMode::kRefined);
  EXPECT_EQ(used.eps, 0.25f);
  EXPECT_EQ(used.max_error, 0.5f);
  EXPECT_EQ(used.min_sparse_tokens, 300);
  EXPECT_FALSE(used.compact);
}

TEST(AttentionRequestTest, EveryFieldReachesTheEngine) {
  TestServer server({.calls = {.defaults = {.attention = {.eps = 0.25f}}}});
  v1::GenerateRequest request = Prompt(20);
  v1::AttentionOptions& attention = *request.mutable_attention();
  attention.set_mode(v1::ATTENTION_MODE_FAITHFUL);
  attention.set_eps(0);
  attention.set_max_error(0);
  attention.set_min_sparse_tokens(0);
  attention.set_tail(v1::TAIL_ESTIMATE_GROUP_MEANS);
  v1::FaithfulOptions& faithful = *attention.mutable_faithful();
  faithful.set_group_tokens(4);
  faithful.set_focal_share(0.5f);
  faithful.set_min_focal_tokens(0);
  faithful.set_sampled_queries(7);
  faithful.set_bias(v1::GROUP_BIAS_ENTROPY);
  faithful.set_scaled_pooling(false);
  faithful.set_whole_prompt(true);
  EXPECT_EQ(ReceiptOf(server, request).mode(), v1::ATTENTION_MODE_FAITHFUL);
  const AttentionOptions used = UsedOptions(server);
  EXPECT_EQ(used.mode, AttentionMode::kFaithful);
  EXPECT_EQ(used.eps, 0);
  EXPECT_EQ(used.max_error, 0);
  EXPECT_EQ(used.min_sparse_tokens, 0);
  EXPECT_EQ(used.tail, TailEstimate::kGroupMeans);
  EXPECT_EQ(used.faithful.group_tokens, 4);
  EXPECT_EQ(used.faithful.focal_share, 0.5f);
  EXPECT_EQ(used.faithful.min_focal_tokens, 0);
  EXPECT_EQ(used.faithful.sampled_queries, 7);
  EXPECT_EQ(used.faithful.bias, GroupBias::kEntropy);
  EXPECT_FALSE(used.faithful.scaled_pooling);
  EXPECT_TRUE(used.faithful.whole_prompt);
}

TEST(AttentionRequestTest, EveryModeHasItsName) {
  for (const auto& [proto, core] : std::map<v1::AttentionMode, AttentionMode>{
           {v1::ATTENTION_MODE_UNSPECIFIED, AttentionMode::kAuto},
           {v1::ATTENTION_MODE_AUTO, AttentionMode::kAuto},
           {v1::ATTENTION_MODE_DENSE, AttentionMode::kDense},
           {v1::ATTENTION_MODE_FAITHFUL, AttentionMode::kFaithful},
           {v1::ATTENTION_MODE_REFINED, AttentionMode::kRefined}}) {
    TestServer server;
    v1::GenerateRequest request = Prompt(20);
    request.mutable_attention()->set_mode(proto);
    const v1::Receipt receipt = ReceiptOf(server, request);
    EXPECT_EQ(UsedOptions(server).mode, core);
    EXPECT_EQ(receipt.mode(),
              proto == v1::ATTENTION_MODE_UNSPECIFIED ? v1::ATTENTION_MODE_AUTO : proto);
  }
}

TEST(AttentionRequestTest, ScoreAndSummarizeTakeTheSame) {
  TestServer server;
  v1::ScoreRequest score = Text(5);
  score.mutable_options()->mutable_attention()->set_eps(0.5f);
  ASSERT_TRUE(Score(server, score).status.ok());
  EXPECT_EQ(UsedOptions(server).eps, 0.5f);
  for (const v1::SummaryStrategy strategy :
       {v1::SUMMARY_STRATEGY_EXTRACTIVE, v1::SUMMARY_STRATEGY_ABSTRACTIVE}) {
    TestServer other;
    v1::SummarizeRequest summarize;
    summarize.mutable_input()->set_text("A ship sailed at dawn. Nobody waved.");
    summarize.set_strategy(strategy);
    summarize.mutable_attention()->set_mode(v1::ATTENTION_MODE_REFINED);
    grpc::ClientContext context;
    const auto result = ReadAll(other.inference().Summarize(&context, summarize));
    ASSERT_TRUE(result.status.ok()) << result.status.error_message();
    EXPECT_EQ(UsedOptions(other).mode, AttentionMode::kRefined);
    const v1::Receipt& receipt = result.events.back().final().receipt();
    EXPECT_EQ(receipt.mode(), v1::ATTENTION_MODE_REFINED);
    EXPECT_GT(receipt.prefill().dense_columns(), 0);
  }
}

// -------------------------------------------------------------------------------
// refusals

struct RefusalCase {
  const char* name;
  std::function<void(v1::AttentionOptions&)> spoil;
  const char* field;
  const char* rest;
};

class AttentionRefusalTest : public testing::TestWithParam<RefusalCase> {};

// Of a text of 20 tokens.
TEST_P(AttentionRefusalTest, NamesFieldLimitAndValueInEveryCall) {
  static TestServer& server = *new TestServer();
  std::string text = "day";
  for (int i = 1; i < 20; ++i) text += " day";
  ASSERT_EQ(server.tokenizer().Encode(text, false, false)->size(), 20u);
  const RefusalCase& c = GetParam();
  const std::string said = absl::StrCat("attention.", c.field, " ", c.rest);
  const std::string violation = absl::StrCat("attention.", c.field, ": ", said);

  v1::GenerateRequest generate;
  generate.mutable_input()->set_text(text);
  c.spoil(*generate.mutable_attention());
  const auto generated = Generate(server, generate);
  EXPECT_EQ(generated.status.error_code(), grpc::INVALID_ARGUMENT);
  EXPECT_EQ(FieldViolation(generated.status), violation);
  EXPECT_EQ(Reason(generated.status), "INVALID_FIELD");
  EXPECT_TRUE(generated.events.empty());

  v1::ScoreRequest score;
  score.mutable_input()->set_text(text);
  c.spoil(*score.mutable_options()->mutable_attention());
  const auto scored = Score(server, score);
  EXPECT_EQ(scored.status.error_code(), grpc::INVALID_ARGUMENT);
  EXPECT_EQ(FieldViolation(scored.status),
            absl::StrCat("options.attention.", c.field, ": options.", said));
  EXPECT_TRUE(scored.events.empty());

  v1::SummarizeRequest summarize;
  summarize.mutable_input()->set_text(text);
  c.spoil(*summarize.mutable_attention());
  grpc::ClientContext context;
  const auto summarized = ReadAll(server.inference().Summarize(&context, summarize));
  EXPECT_EQ(summarized.status.error_code(), grpc::INVALID_ARGUMENT);
  EXPECT_EQ(FieldViolation(summarized.status), violation);
  EXPECT_TRUE(summarized.events.empty());
  EXPECT_EQ(server.fake().num_steps(), 0);
}

using A = v1::AttentionOptions;
void Faithful(A& a) { a.set_mode(v1::ATTENTION_MODE_FAITHFUL); }
const std::vector<RefusalCase> kRefusals = {
    {"UnknownMode", [](A& a) { a.set_mode(static_cast<v1::AttentionMode>(9)); }, "mode",
     "is 9; it must be one of AUTO, DENSE, FAITHFUL and REFINED"},
    {"UnknownTail", [](A& a) { a.set_tail(static_cast<v1::TailEstimate>(3)); }, "tail",
     "is 3; it must be one of SAMPLED and GROUP_MEANS"},
    {"UnknownBias",
     [](A& a) { a.mutable_faithful()->set_bias(static_cast<v1::GroupBias>(-1)); },
     "faithful.bias", "is -1; it must be one of NONE, LOG_SIZE and ENTROPY"},
    {"NegativeEps", [](A& a) { a.set_eps(-0.5f); }, "eps",
     "is -0.5; it must be in [0, 1]"},
    {"LargeEps", [](A& a) { a.set_eps(1.5f); }, "eps", "is 1.5; it must be in [0, 1]"},
    {"NanEps", [](A& a) { a.set_eps(std::nanf("")); }, "eps",
     "is nan; it must be in [0, 1]"},
    {"NegativeMaxError", [](A& a) { a.set_max_error(-1); }, "max_error",
     "is -1; it must be in [0, 1]"},
    {"LargeMaxError", [](A& a) { a.set_max_error(2); }, "max_error",
     "is 2; it must be in [0, 1]"},
    {"NanMaxError", [](A& a) { a.set_max_error(std::nanf("")); }, "max_error",
     "is nan; it must be in [0, 1]"},
    {"NegativeMinSparse", [](A& a) { a.set_min_sparse_tokens(-1); }, "min_sparse_tokens",
     "is -1; it must be >= 0"},
    {"CompactDense",
     [](A& a) {
       a.set_mode(v1::ATTENTION_MODE_DENSE);
       a.set_compact(true);
     },
     "compact", "is true; it must be false when the mode is DENSE"},
    {"CompactFaithful",
     [](A& a) {
       Faithful(a);
       a.set_compact(true);
     },
     "compact", "is true; it must be false when the mode is FAITHFUL"},
    {"NoGroup", [](A& a) { a.mutable_faithful()->set_group_tokens(0); },
     "faithful.group_tokens", "is 0; it must be >= 1"},
    {"GroupBeyondTheText",
     [](A& a) {
       Faithful(a);
       a.mutable_faithful()->set_group_tokens(21);
     },
     "faithful.group_tokens", "is 21; it must be at most 20, the text's tokens"},
    {"NoFocalShare", [](A& a) { a.mutable_faithful()->set_focal_share(0); },
     "faithful.focal_share", "is 0; it must be in (0, 1]"},
    {"LargeFocalShare", [](A& a) { a.mutable_faithful()->set_focal_share(1.25f); },
     "faithful.focal_share", "is 1.25; it must be in (0, 1]"},
    {"NanFocalShare", [](A& a) { a.mutable_faithful()->set_focal_share(std::nanf("")); },
     "faithful.focal_share", "is nan; it must be in (0, 1]"},
    {"NegativeMinFocal", [](A& a) { a.mutable_faithful()->set_min_focal_tokens(-1); },
     "faithful.min_focal_tokens", "is -1; it must be >= 0"},
    {"NoSampledQueries", [](A& a) { a.mutable_faithful()->set_sampled_queries(0); },
     "faithful.sampled_queries", "is 0; it must be >= 1"},
};

INSTANTIATE_TEST_SUITE_P(All, AttentionRefusalTest, testing::ValuesIn(kRefusals),
                         [](const auto& info) { return std::string(info.param.name); });

TEST(AttentionRequestTest, AGroupAsLongAsTheTextIsAllowed) {
  TestServer server;
  v1::GenerateRequest request = Prompt(20);
  Faithful(*request.mutable_attention());
  request.mutable_attention()->mutable_faithful()->set_group_tokens(20);
  EXPECT_TRUE(Generate(server, request).status.ok());
}

TEST(AttentionRequestTest, FaithfulBeyondTheContextIsRefused) {
  TestServer server;
  v1::GenerateRequest generate = Prompt(256);
  Faithful(*generate.mutable_attention());
  EXPECT_EQ(FieldViolation(Generate(server, generate).status),
            "input: input has 256 tokens; it must have at most 255, one less than the "
            "model's context");
  v1::ScoreRequest score = Text(257);
  v1::AttentionOptions& attention = *score.mutable_options()->mutable_attention();
  Faithful(attention);
  EXPECT_TRUE(Score(server, score).status.ok());  // in two windows
  attention.mutable_faithful()->set_whole_prompt(true);
  EXPECT_EQ(FieldViolation(Score(server, score).status),
            "options.attention.faithful.whole_prompt: "
            "options.attention.faithful.whole_prompt is true; the text must then have at "
            "most 256 tokens, one window, and it has 257");
}

TEST(AttentionRequestTest, ABatchNamesTheFieldAndGoesOn) {
  TestServer server;
  grpc::ClientContext context;
  const auto stream = server.inference().ScoreBatch(&context);
  v1::ScoreBatchRequest request;
  request.set_id("a");
  request.set_text("Once upon a time");
  request.mutable_options()->mutable_attention()->set_eps(7);
  stream->Write(request);
  request.set_id("b");
  request.mutable_options()->mutable_attention()->set_eps(0.5f);
  request.mutable_options()->set_importance(true);
  request.mutable_options()->set_sentence_importance(true);
  stream->Write(request);
  stream->WritesDone();
  std::vector<std::string> events;
  v1::ScoreBatchResponse event;
  while (stream->Read(&event)) {
    if (event.has_error()) events.push_back(event.error().message());
    if (event.has_importance()) events.push_back(event.id() + " importance");
    if (event.has_sentences()) events.push_back(event.id() + " sentences");
    if (event.has_final()) {
      events.push_back(absl::StrCat(event.id(), " ", event.final().receipt().eps()));
    }
  }
  EXPECT_TRUE(stream->Finish().ok());
  EXPECT_THAT(events, ElementsAre("options.attention.eps is 7; it must be in [0, 1]",
                                  "b importance", "b sentences", "b 0.5"));
}

// -------------------------------------------------------------------------------
// receipts

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

TEST(ReceiptTest, TellsOfAnErrorThatWasTooLarge) {
  TestServer server;
  v1::GenerateRequest request = Prompt(240, 10);
  request.mutable_attention()->set_mode(v1::ATTENTION_MODE_REFINED);
  request.mutable_attention()->set_eps(0.5f);
  request.mutable_attention()->set_max_error(0.25f);
  server.fake().set_audit_error([](const AttentionOptions& o) { return o.eps; });
  v1::Receipt receipt = ReceiptOf(server, request);
  EXPECT_EQ(receipt.eps(), 0.25f);
  EXPECT_EQ(receipt.eps_lowered(), 1);
  EXPECT_FALSE(receipt.fell_back());
  EXPECT_EQ(receipt.note(), "lowered eps, because the audited error was above max_error");
  EXPECT_EQ(receipt.max_audited_error(), 0.5);

  server.fake().set_audit_error([](const AttentionOptions&) { return 0.5; });
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

// --------------------------------------------------------------------------------
// metrics

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

// -----------------------------------------------------------------------------
// importance

struct Importance {
  std::vector<float> tokens;
  std::vector<v1::SentenceImportance> sentences;
};

Importance Join(const std::vector<v1::ScoreResponse>& events) {
  Importance all;
  for (const auto& event : events) {
    const v1::TokenImportance& block = event.importance();
    if (event.has_importance()) {
      EXPECT_EQ(block.first_token(), static_cast<int64_t>(all.tokens.size()));
      EXPECT_LE(block.importance_size(), 4096);
    }
    all.tokens.insert(all.tokens.end(), block.importance().begin(),
                      block.importance().end());
    EXPECT_LE(event.sentences().sentences_size(), 4096);
    all.sentences.insert(all.sentences.end(), event.sentences().sentences().begin(),
                         event.sentences().sentences().end());
  }
  return all;
}

constexpr char kStory[] =
    " The ship left the harbour at dawn. Nobody waved. The captain counted his crew "
    "twice.";

// The definition, for one window: the attention paid over what was to be expected, which
// is the fake's if all its tokens weighed the same.
std::vector<double> ImportanceOf(const std::vector<TokenId>& tokens) {
  const auto read = static_cast<int64_t>(tokens.size()) - 1;
  std::vector<double> paid(tokens.size()), expected(tokens.size());
  for (const int64_t query : ProbedRows(0, read, true)) {
    double all = 0, same = 0;
    for (int64_t i = 0; i <= query; ++i) {
      all += FakeWeight(tokens[i], query - i);
      same += FakeWeight(0, query - i);
    }
    for (int64_t i = 0; i <= query; ++i) {
      paid[i] += FakeWeight(tokens[i], query - i) / all;
      expected[i] += FakeWeight(0, query - i) / same;
    }
  }
  for (int64_t i = 0; i < read; ++i) paid[i] /= expected[i];
  return paid;
}

TEST(ImportanceTest, OfTokensAndOfSentencesByTheirLastByte) {
  for (const bool begin_token : {false, true}) {
    TestServer server({.begin_token = begin_token});
    v1::ScoreRequest request;
    request.mutable_input()->set_text(kStory);
    request.mutable_options()->set_importance(true);
    request.mutable_options()->set_sentence_importance(true);
    const auto result = Score(server, request);
    ASSERT_TRUE(result.status.ok()) << result.status.error_message();
    const Encoding encoding = *server.tokenizer().EncodeWithSpans(kStory, false, false);
    std::vector<TokenId> read = encoding.ids;
    if (begin_token) read.insert(read.begin(), 1);
    std::vector<double> expected = ImportanceOf(read);
    if (begin_token) expected.erase(expected.begin());
    const Importance got = Join(result.events);
    ASSERT_EQ(got.tokens.size(), expected.size());
    for (size_t i = 0; i < expected.size(); ++i) {
      EXPECT_NEAR(got.tokens[i], expected[i], 1e-5) << i;
    }
    ASSERT_EQ(got.sentences.size(), 3u);
    int64_t counted = 0;
    for (const v1::SentenceImportance& sentence : got.sentences) {
      double sum = 0;
      int64_t tokens = 0;
      for (size_t i = 0; i < expected.size(); ++i) {
        const int64_t last = encoding.spans[i].end - 1;
        if (last < sentence.span().begin() || last >= sentence.span().end()) continue;
        if (i == 0 && !begin_token) continue;
        sum += expected[i];
        ++tokens;
      }
      counted += tokens;
      EXPECT_NEAR(sentence.importance(), sum / static_cast<double>(tokens), 1e-5);
    }
    EXPECT_EQ(counted, static_cast<int64_t>(expected.size()) - (begin_token ? 0 : 1));
    EXPECT_EQ(std::string(kStory).substr(got.sentences[1].span().begin(), 13),
              "Nobody waved.");
  }
}

TEST(ImportanceTest, EachPartOnlyOnRequest) {
  TestServer server;
  v1::ScoreRequest request;
  request.mutable_input()->set_text(kStory);
  EXPECT_TRUE(Join(Score(server, request).events).tokens.empty());
  EXPECT_FALSE(server.fake().steps().back().items[0].importance);
  request.mutable_options()->set_sentence_importance(true);
  const Importance sentences = Join(Score(server, request).events);
  EXPECT_TRUE(sentences.tokens.empty());
  EXPECT_EQ(sentences.sentences.size(), 3u);
  request.mutable_options()->set_sentence_importance(false);
  request.mutable_options()->set_importance(true);
  const Importance tokens = Join(Score(server, request).events);
  EXPECT_FALSE(tokens.tokens.empty());
  EXPECT_TRUE(tokens.sentences.empty());
}

TEST(ImportanceTest, TokenIdsHaveTokensOnly) {
  TestServer server;
  v1::ScoreRequest request = Text(20);
  request.mutable_options()->set_importance(true);
  EXPECT_EQ(Join(Score(server, request).events).tokens.size(), 20u);
  request.mutable_options()->set_sentence_importance(true);
  EXPECT_EQ(FieldViolation(Score(server, request).status),
            "options.sentence_importance: options.sentence_importance is true; it must "
            "be false when the input is not text");
}

TEST(ImportanceTest, LongTextsComeInBlocksThatFollowEachOther) {
  TestServer server({.context_tokens = 5120, .chunk_tokens = 4096});
  v1::ScoreRequest request;
  std::string text;
  for (int i = 0; i < 5000; ++i) absl::StrAppend(&text, "It was day. ");
  request.mutable_input()->set_text(text);
  request.mutable_options()->set_importance(true);
  request.mutable_options()->set_sentence_importance(true);
  const auto result = Score(server, request);
  ASSERT_TRUE(result.status.ok()) << result.status.error_message();
  const Importance all = Join(result.events);
  EXPECT_EQ(all.tokens.size(), server.tokenizer().Encode(text, false, false)->size());
  EXPECT_EQ(all.sentences.size(), 5000u);
  EXPECT_GT(result.events.back().final().windows(), 2);
}

}  // namespace
}  // namespace quire::server

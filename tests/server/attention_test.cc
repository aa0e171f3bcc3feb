#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/server/attention_calls.h"

// How requests choose their attention, and what they are refused.
namespace quire::server {
namespace {

using testing::ElementsAre;

AttentionOptions UsedOptions(TestServer& server) {
  return server.fake().steps().at(0).items.at(0).attention;
}

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

// ---------------------------------------------------------------------- refusals

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

}  // namespace
}  // namespace quire::server

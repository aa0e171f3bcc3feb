#include <gmock/gmock.h>
#include <google/protobuf/text_format.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "client/cli/report.h"
#include "nlohmann/json.hpp"
#include "tests/client/cli_fixture.h"
#include "tests/client/fake_server.h"

// What the command line says of attention, and how receipts and importance are shown.
namespace quire::cli {
namespace {

using client::testing::HappyScript;
using client::testing::Script;
using testing::CliTest;
using ::testing::HasSubstr;
using ::testing::Not;
using Json = nlohmann::json;

v1::Receipt ReceiptFrom(const std::string& text) {
  v1::Receipt receipt;
  EXPECT_TRUE(google::protobuf::TextFormat::ParseFromString(text, &receipt));
  return receipt;
}

const char kRefined[] =
    "mode: ATTENTION_MODE_REFINED eps: 0.04 density: 0.0613 saved_macs_share: 0.584 "
    "coverage: 0.97 tail_risk: 0.0072 ";

TEST(ReceiptLinesTest, SayWhatWasReadSavedAndHowItErred) {
  EXPECT_EQ(ReceiptLines(ReceiptFrom(kRefined)),
            "attention: refined, 6.1 % of the keys read, 2.4x fewer multiply-adds, "
            "expected error 0.72 %");
  EXPECT_EQ(ReceiptLines(ReceiptFrom(std::string(kRefined) +
                                     "audited_tokens: 9 audited_error: 0.013 "
                                     "kv_bytes_dropped: 12300000")),
            "attention: refined, 6.1 % of the keys read, 2.4x fewer multiply-adds, "
            "error 1.3 % (audited), gave back 12.3 MB of keys and values");
  EXPECT_EQ(
      ReceiptLines(ReceiptFrom(std::string(kRefined) + "device_seconds: 2.5 "
                                                       "modelled_dense_device_seconds: 4 "
                                                       "modelled_savings_usd: 0.00104")),
      "attention: refined, 6.1 % of the keys read, 2.4x fewer multiply-adds, "
      "expected error 0.72 %, 2.50 s of the device (modelled for dense: 4.00 s), "
      "$0.00104 saved (modelled)");
  EXPECT_THAT(ReceiptLines(ReceiptFrom(std::string(kRefined) +
                                       "device_seconds: 2 modelled_savings_usd: -0.5")),
              HasSubstr(", $0.5 lost (modelled)"));
  EXPECT_EQ(ReceiptLines(ReceiptFrom("mode: ATTENTION_MODE_FAITHFUL density: 0.3 "
                                     "saved_macs_share: -0.25 coverage: 0.5 "
                                     "audited_error: 0.1 fell_back: true "
                                     "note: 'went dense, because it had to'")),
            "attention: faithful, 30.0 % of the keys read, 1.2x more multiply-adds, "
            "error 10.0 % (audited)\n  went dense, because it had to");
}

TEST(ReceiptLinesTest, SayLittleOfWhatWasDense) {
  EXPECT_EQ(ReceiptLines({}), "");
  EXPECT_EQ(ReceiptLines(ReceiptFrom("mode: ATTENTION_MODE_DENSE density: 1")),
            "attention: dense");
  EXPECT_EQ(ReceiptLines(ReceiptFrom("mode: ATTENTION_MODE_REFINED density: 1 "
                                     "note: 'all tokens were read densely: why'")),
            "attention: refined\n  all tokens were read densely: why");
  EXPECT_EQ(ReceiptLines(ReceiptFrom("mode: 77 density: 1")), "attention: sparse");
}

// ------------------------------------------------------------------------------ requests

const std::vector<std::string> kEveryFlag = {"--attention",
                                             "faithful",
                                             "--eps",
                                             "0.25",
                                             "--max-error",
                                             "0.5",
                                             "--min-sparse-tokens",
                                             "300",
                                             "--tail",
                                             "group-means",
                                             "--compact",
                                             "--group-tokens",
                                             "8",
                                             "--focal-share",
                                             "0.125",
                                             "--min-focal-tokens",
                                             "0",
                                             "--sampled-queries",
                                             "64",
                                             "--group-bias",
                                             "log-size",
                                             "--unscaled-pooling",
                                             "--whole-prompt"};
const char kEveryField[] =
    "mode: ATTENTION_MODE_FAITHFUL eps: 0.25 max_error: 0.5 min_sparse_tokens: 300 "
    "tail: TAIL_ESTIMATE_GROUP_MEANS compact: true faithful { group_tokens: 8 "
    "focal_share: 0.125 min_focal_tokens: 0 sampled_queries: 64 "
    "bias: GROUP_BIAS_LOG_SIZE scaled_pooling: false whole_prompt: true }";

std::vector<std::string> WithEveryFlag(std::vector<std::string> arguments) {
  arguments.insert(arguments.end(), kEveryFlag.begin(), kEveryFlag.end());
  return arguments;
}

TEST_F(CliTest, EveryAttentionFlagIsSentByEveryCommandThatReadsAText) {
  std::string seen;
  Script script = HappyScript();
  script.summarize = [&, happy = script.summarize](auto* context, const auto& request,
                                                   auto* writer) {
    seen = request.attention().ShortDebugString();
    return happy(context, request, writer);
  };
  script.generate = [&, happy = script.generate](auto* context, const auto& request,
                                                 auto* writer) {
    seen = request.attention().ShortDebugString();
    return happy(context, request, writer);
  };
  script.score = [&, happy = script.score](auto* context, const auto& request,
                                           auto* writer) {
    seen = request.options().attention().ShortDebugString();
    return happy(context, request, writer);
  };
  for (const std::vector<std::string>& command : std::vector<std::vector<std::string>>{
           {"summarize", "-"}, {"ask", "-", "Who?"}, {"generate", "x"}, {"score", "-"}}) {
    seen.clear();
    EXPECT_EQ(Run(WithEveryFlag(command), script).code, 0) << command[0];
    EXPECT_EQ(seen, kEveryField) << command[0];
    EXPECT_EQ(Run(command, script).code, 0) << command[0];
    EXPECT_EQ(seen, "") << command[0];
  }
}

TEST_F(CliTest, AnUnknownModeIsRefusedBeforeAnythingIsSent) {
  const auto result = Run({"score", "-", "--attention", "sparse"});
  EXPECT_EQ(result.code, 2);
  EXPECT_THAT(result.err, HasSubstr("--attention"));
}

TEST_F(CliTest, HelpShowsTheFlags) {
  const auto result = Run({"summarize", "--help"});
  EXPECT_THAT(result.out, HasSubstr("--attention"));
  EXPECT_THAT(result.out, HasSubstr("With --attention faithful"));
}

// ---------------------------------------------------------------------- receipts

// The happy server, with a receipt in each last event.
Script WithReceipt(const v1::Receipt& receipt) {
  Script script;
  script.summarize = [=](auto*, const auto&, auto* writer) {
    v1::SummarizeResponse event;
    event.mutable_text()->set_text("Done.");
    writer->Write(event);
    *event.mutable_final()->mutable_receipt() = receipt;
    writer->Write(event);
    return grpc::Status::OK;
  };
  script.generate = [=](auto*, const auto&, auto* writer) {
    v1::GenerateResponse event;
    *event.mutable_final()->mutable_receipt() = receipt;
    writer->Write(event);
    return grpc::Status::OK;
  };
  script.score = [=](auto*, const auto&, auto* writer) {
    v1::ScoreResponse event;
    *event.mutable_final()->mutable_receipt() = receipt;
    writer->Write(event);
    return grpc::Status::OK;
  };
  return script;
}

TEST_F(CliTest, EveryCommandEndsWithTheReceipt) {
  const Script script = WithReceipt(ReceiptFrom(kRefined));
  const std::string line =
      "\nattention: refined, 6.1 % of the keys read, 2.4x fewer "
      "multiply-adds, expected error 0.72 %\n";
  for (const std::vector<std::string>& command : std::vector<std::vector<std::string>>{
           {"summarize", "-"}, {"generate", "x"}, {"score", "-"}}) {
    EXPECT_THAT(Run(command, script).err, HasSubstr(line)) << command[0];
  }
  EXPECT_EQ(Run({"score", "-", "--quiet"}, script).err, "");
}

TEST_F(CliTest, ThatAutoWasDenseIsADetail) {
  const Script script = WithReceipt(
      ReceiptFrom("mode: ATTENTION_MODE_AUTO density: 1 note: 'all were read'"));
  EXPECT_THAT(Run({"score", "-"}, script).err, Not(HasSubstr("attention")));
  EXPECT_THAT(Run({"score", "-", "-v"}, script).err,
              HasSubstr("attention: auto\n  all were read\n"));
}

TEST_F(CliTest, JsonHasAllOfTheReceipt) {
  const Script script = WithReceipt(ReceiptFrom(
      std::string(kRefined) +
      "eps_lowered: 1 note: 'n' prefill { attention_macs: 1 selection_macs: 2 "
      "statistics_macs: 3 audit_macs: 4 dense_macs: 5 attention_bytes: 6 "
      "selection_bytes: 7 statistics_bytes: 8 audit_bytes: 9 dense_bytes: 10 "
      "columns: 11 dense_columns: 12 seconds: 0.5 selection_seconds: 0.25 } "
      "audited_tokens: 3 audited_error: 0.5 max_audited_error: 0.75 "
      "kv_bytes_dropped: 64 device_seconds: 1.5 modelled_dense_device_seconds: 2.5 "
      "modelled_savings_usd: 0.25"));
  const Json expected = Json::parse(R"({
    "mode": "REFINED", "eps": 0.04, "eps_lowered": 1, "fell_back": false, "note": "n",
    "prefill": {"attention_macs": 1, "selection_macs": 2, "statistics_macs": 3,
                "audit_macs": 4, "dense_macs": 5, "attention_bytes": 6,
                "selection_bytes": 7, "statistics_bytes": 8, "audit_bytes": 9,
                "dense_bytes": 10, "columns": 11, "dense_columns": 12, "seconds": 0.5,
                "selection_seconds": 0.25},
    "decode": {"attention_macs": 0, "selection_macs": 0, "statistics_macs": 0,
               "audit_macs": 0, "dense_macs": 0, "attention_bytes": 0,
               "selection_bytes": 0, "statistics_bytes": 0, "audit_bytes": 0,
               "dense_bytes": 0, "columns": 0, "dense_columns": 0, "seconds": 0.0,
               "selection_seconds": 0.0},
    "density": 0.0613, "saved_macs_share": 0.584, "coverage": 0.97, "tail_risk": 0.0072,
    "audited_tokens": 3, "audited_error": 0.5, "max_audited_error": 0.75,
    "kv_bytes_dropped": 64, "device_seconds": 1.5,
    "modelled_dense_device_seconds": 2.5, "modelled_savings_usd": 0.25})");
  for (const std::vector<std::string>& command :
       std::vector<std::vector<std::string>>{{"summarize", "-", "--json"},
                                             {"generate", "x", "--json"},
                                             {"score", "-", "--json"}}) {
    EXPECT_EQ(Json::parse(Run(command, script).out)["receipt"], expected) << command[0];
  }
  const Json bare = Json::parse(
      Run({"score", "-", "--json"}, WithReceipt(ReceiptFrom("eps: 0.5"))).out);
  EXPECT_FALSE(bare["receipt"].contains("density"));
  EXPECT_FALSE(bare["receipt"].contains("audited_error"));
}

// ---------------------------------------------------------------------- importance

// Twelve sentences of three bytes; the i-th has importance 7 i mod 12.
Script ImportanceScript(v1::ScoreOptions& seen) {
  Script script;
  script.score = [&seen](auto*, const v1::ScoreRequest& request, auto* writer) {
    seen = request.options();
    v1::ScoreResponse event;
    if (request.options().importance()) {
      event.mutable_importance()->add_importance(0.1f);
      writer->Write(event);
      event.mutable_importance()->set_first_token(1);
      event.mutable_importance()->set_importance(0, 2);
      writer->Write(event);
    }
    for (int i = 0; i < 12; i += 6) {
      event.mutable_sentences()->Clear();
      for (int k = i; k < i + 6; ++k) {
        v1::SentenceImportance& sentence = *event.mutable_sentences()->add_sentences();
        sentence.mutable_span()->set_begin(3 * k);
        sentence.mutable_span()->set_end(3 * k + 2);
        sentence.set_importance(static_cast<float>(7 * k % 12));
      }
      writer->Write(event);
    }
    event.mutable_final()->set_scored_tokens(1);
    writer->Write(event);
    return grpc::Status::OK;
  };
  return script;
}

TEST_F(CliTest, TheMostImportantSentencesComeFirst) {
  program_.input = "A. B. C. D. E. F. G. H. I. J. K. L.";
  v1::ScoreOptions seen;
  const auto result = Run({"score", "-", "--importance"}, ImportanceScript(seen));
  EXPECT_TRUE(seen.sentence_importance());
  EXPECT_FALSE(seen.importance());
  EXPECT_THAT(result.out,
              ::testing::EndsWith("\nimportance  sentence, bytes of the text\n"
                                  "     11.00  15-17  F.\n"
                                  "     10.00  30-32  K.\n"
                                  "      9.00  9-11  D.\n"
                                  "      8.00  24-26  I.\n"
                                  "      7.00  3-5  B.\n"
                                  "      6.00  18-20  G.\n"
                                  "      5.00  33-35  L.\n"
                                  "      4.00  12-14  E.\n"
                                  "      3.00  27-29  J.\n"
                                  "      2.00  6-8  C.\n"));
}

TEST_F(CliTest, JsonHasEveryTokensAndEverySentencesImportance) {
  program_.input = "A. B. C. D. E. F. G. H. I. J. K. L.";
  v1::ScoreOptions seen;
  const auto result =
      Run({"score", "-", "--importance", "--json"}, ImportanceScript(seen));
  EXPECT_TRUE(seen.importance());
  EXPECT_THAT(result.out, HasSubstr("\"importance\":[0.1,2.0],"));
  const Json json = Json::parse(result.out);
  ASSERT_EQ(json["sentences"].size(), 12u);
  EXPECT_EQ(json["sentences"][5],
            Json::parse(R"({"begin": 15, "end": 17, "importance": 11.0})"));
}

TEST_F(CliTest, WithoutTheFlagThereIsNoImportance) {
  const Json json = Json::parse(Run({"score", "-", "--json"}).out);
  EXPECT_FALSE(json.contains("importance"));
  EXPECT_FALSE(json.contains("sentences"));
}

}  // namespace
}  // namespace quire::cli

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "nlohmann/json.hpp"
#include "tests/client/cli_fixture.h"
#include "tests/client/fake_server.h"

namespace quire::cli {
namespace {

using client::testing::ErrorWithField;
using client::testing::HappyScript;
using client::testing::Script;
using testing::CliTest;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;
using testing::TextFile;
using Json = nlohmann::json;

constexpr char kSummary[] = "Three caf\xC3\xA9 words.\n";
constexpr char kFigures[] =
    "read 6,000 tokens in 4.00 s (1,500/s), wrote 3 in 0.10 s (30.0/s), "
    "first after 4.05 s, total 4.20 s\n";

// ------------------------------------------------------------------ what is printed
// where

TEST_F(CliTest, SummaryGoesToStdoutFiguresToStderr) {
  const TextFile file("A text.");
  const auto result = Run({"summarize", file.path()});
  EXPECT_EQ(result.code, 0);
  EXPECT_EQ(result.out, kSummary);
  EXPECT_EQ(result.err, kFigures);
}

TEST_F(CliTest, QuietLeavesOnlyTheSummary) {
  program_.err_terminal = true;
  const auto result = Run({"summarize", "-", "--quiet"});
  EXPECT_EQ(result.out, kSummary);
  EXPECT_EQ(result.err, "");
}

TEST_F(CliTest, ProgressIsDrawnOnATerminalAndErasedBeforeText) {
  program_.out_terminal = program_.err_terminal = true;
  const auto result = Run({"summarize", "-"});
  EXPECT_EQ(result.out, kSummary);
  EXPECT_EQ(
      result.err,
      "\r\x1b[KReading  ..............................    0%  0/6,000 tokens"
      "\r\x1b[KReading  #######................   34%  2,048/6,000 tokens  2,048 tok/s  "
      "ETA 3s"
      "\r\x1b[KReading  ###############........   68%  4,096/6,000 tokens  2,048 tok/s  "
      "ETA 1s"
      "\r\x1b[KReading  #######################  100%  6,000/6,000 tokens  2,000 tok/s  "
      "ETA 0s"
      "\r\x1b[K\n" +
          std::string(kFigures));
}

TEST_F(CliTest, NoProgressIsDrawnBehindText) {
  program_.out_terminal = program_.err_terminal = true;
  Script script = HappyScript();
  script.generate = [](auto*, const auto&, auto* writer) {
    v1::GenerateResponse event;
    event.mutable_text()->set_text("some ");
    writer->Write(event);
    event.mutable_progress()->set_phase(v1::PHASE_DECODE);
    event.mutable_progress()->set_done_tokens(1);
    writer->Write(event);
    event.mutable_final();
    writer->Write(event);
    return grpc::Status::OK;
  };
  const auto result = Run({"generate", "x"}, script);
  EXPECT_EQ(result.out, "some \n");
  EXPECT_THAT(result.err, Not(HasSubstr("Writing")));
}

TEST_F(CliTest, NoProgressWithoutATerminal) {
  program_.out_terminal = true;
  EXPECT_EQ(Run({"summarize", "-"}).err, kFigures);
}

Script SpeakingEscapes() {
  Script script;
  script.generate = [](auto*, const auto&, auto* writer) {
    v1::GenerateResponse event;
    event.mutable_text()->set_text("\x1b]0;title\x07");
    writer->Write(event);
    event.mutable_final();
    writer->Write(event);
    return grpc::Status::OK;
  };
  return script;
}

TEST_F(CliTest, EscapesAreNeutralisedOnATerminalOnly) {
  program_.out_terminal = true;
  EXPECT_EQ(Run({"generate", "x"}, SpeakingEscapes()).out, "\u241B]0;title\u2407\n");
  program_.out_terminal = false;
  EXPECT_EQ(Run({"generate", "x"}, SpeakingEscapes()).out, "\x1b]0;title\x07\n");
}

TEST_F(CliTest, VerboseShowsPlanModelSeedAndRequestId) {
  const auto result = Run({"summarize", "-", "-v"});
  EXPECT_THAT(result.err,
              StartsWith("plan: ABSTRACTIVE, 5,980 tokens in 1 part(s), 1 pass(es), "
                         "0 level(s)\n"));
  EXPECT_THAT(result.err, HasSubstr("model fake, seed 7, request id req-1\n"));
}

TEST_F(CliTest, SourcesQuoteTheText) {
  program_.input = "First line\nsecond " + std::string(80, 'x');
  const auto result = Run({"summarize", "--sources"});
  EXPECT_EQ(result.out, kSummary +
                            std::string("\nSources, bytes of the text:\n  0-98  First "
                                        "line second ") +
                            std::string(42, 'x') + "...\n");
}

// ------------------------------------------------------------------ JSON

TEST_F(CliTest, SummaryAsJson) {
  const auto result = Run({"summarize", "-", "--json"});
  EXPECT_EQ(result.code, 0);
  EXPECT_EQ(result.err, "");
  EXPECT_EQ(Json::parse(result.out), Json::parse(R"({
    "summary": "Three café words.", "strategy": "ABSTRACTIVE", "document_tokens": 5980,
    "parts": [{"begin": 0, "end": 7}], "passes": 1, "levels": 0,
    "sources": [{"begin": 0, "end": 7}], "finish_reason": "EOS", "model": "fake", "seed": 7,
    "usage": {"prompt_tokens": 6000, "cached_tokens": 0, "generated_tokens": 3},
    "timings": {"queue_seconds": 0.0, "prefill_seconds": 4.0, "decode_seconds": 0.1,
                "total_seconds": 4.2, "time_to_first_token_seconds": 4.05},
    "request_id": "req-1"})"));
}

TEST_F(CliTest, GeneratedTokensAsJson) {
  const auto result = Run({"generate", "Hello", "--json", "--top-logprobs", "2", "--seed",
                           "18446744073709551615"});
  const Json json = Json::parse(result.out);
  EXPECT_EQ(json["text"], " there");
  EXPECT_EQ(json["tokens"][0]["id"], 612);
  EXPECT_THAT(result.out, HasSubstr("\"logprob\":-0.1,"));  // the float's digits
  EXPECT_EQ(json["tokens"][0]["top"].size(), 2u);
  EXPECT_EQ(json["stop"], "\n");
  EXPECT_EQ(json["finish_reason"], "STOP");
  EXPECT_EQ(json["seed"], 18446744073709551615u);
}

TEST_F(CliTest, ScoresAsOneJsonObject) {
  program_.input = "abc";
  const auto result = Run({"score", "-", "--json", "--ranks", "--top", "1"});
  EXPECT_EQ(result.code, 0);
  const Json json = Json::parse(result.out);
  ASSERT_EQ(json["tokens"].size(), 3u);
  EXPECT_EQ(json["tokens"][0],
            Json::parse(R"({"index": 0, "offset": 0, "id": 0, "logprob": null,
                                               "rank": 0, "top": [], "text": "a"})"));
  EXPECT_EQ(json["tokens"][2],
            Json::parse(R"({"index": 2, "offset": 2, "id": 2, "logprob": -0.5, "rank": 2,
                            "top": [{"id": 100, "logprob": -0.25}], "text": "c"})"));
  EXPECT_EQ(json["scored_tokens"], 2);
  EXPECT_EQ(json["logprob"], -1.0);
}

TEST_F(CliTest, ScoresThatBreakOffAreStillOneJsonObject) {
  Script script = HappyScript();
  script.score = [happy = script.score](auto* context, const auto& request,
                                        auto* writer) {
    happy(context, request, writer);
    return grpc::Status(grpc::StatusCode::INTERNAL, "broken");
  };
  program_.input = "abc";
  const auto result = Run({"score", "--json", "--per-token"}, script);
  EXPECT_EQ(result.code, 1);
  const Json json = Json::parse(result.out);
  EXPECT_EQ(json["tokens"].size(), 3u);
  EXPECT_EQ(json["error"]["code"], "INTERNAL");
}

TEST_F(CliTest, ErrorAsJson) {
  Script script;
  script.generate = [](auto* context, const auto&, auto*) {
    context->AddTrailingMetadata("x-request-id", "r9");
    return ErrorWithField(grpc::StatusCode::INVALID_ARGUMENT, "sampling.top_p is 2",
                          "sampling.top_p", "is 2; it must be in (0, 1]");
  };
  const auto result = Run({"generate", "x", "--json", "--top-p", "2"}, script);
  EXPECT_EQ(result.code, 2);
  EXPECT_EQ(Json::parse(result.out), Json::parse(R"({"error": {
    "code": "INVALID_ARGUMENT", "message": "sampling.top_p is 2",
    "field_violations": [{"field": "sampling.top_p",
                          "description": "is 2; it must be in (0, 1]"}],
    "request_id": "r9"}})"));
  EXPECT_EQ(result.err,
            "quire: sampling.top_p is 2\n  sampling.top_p: is 2; it must be in (0, 1]\n"
            "  request id: r9\n");
}

// ------------------------------------------------------------------ what is sent

TEST_F(CliTest, EverySummarizeFlagIsSent) {
  v1::SummarizeRequest seen;
  Script script = HappyScript();
  script.summarize = [&, happy = script.summarize](auto* context, const auto& request,
                                                   auto* writer) {
    seen = request;
    return happy(context, request, writer);
  };
  EXPECT_EQ(Run({"summarize",
                 "-",
                 "--model",
                 "m",
                 "--words",
                 "120",
                 "--strategy",
                 "extractive",
                 "--question",
                 "why?",
                 "--max-tokens",
                 "77",
                 "--temperature",
                 "0.5",
                 "--top-k",
                 "3",
                 "--top-p",
                 "0.25",
                 "--min-p",
                 "0.125",
                 "--repetition-penalty",
                 "1.5",
                 "--presence-penalty",
                 "-2",
                 "--frequency-penalty",
                 "0.75",
                 "--no-repeat-ngram",
                 "4",
                 "--penalize-prompt",
                 "--seed",
                 "9"},
                script)
                .code,
            0);
  EXPECT_EQ(
      seen.ShortDebugString(),
      "model: \"m\" input { text: \"A text.\" } strategy: SUMMARY_STRATEGY_EXTRACTIVE "
      "question: \"why?\" target_words: 120 sampling { temperature: 0.5 top_k: 3 "
      "top_p: 0.25 min_p: 0.125 repetition_penalty: 1.5 presence_penalty: -2 "
      "frequency_penalty: 0.75 no_repeat_ngram: 4 penalize_prompt: true seed: 9 } "
      "max_new_tokens: 77 attention { }");
}

TEST_F(CliTest, AskIsASummaryWithAQuestion) {
  v1::SummarizeRequest seen;
  Script script = HappyScript();
  script.summarize = [&, happy = script.summarize](auto* context, const auto& request,
                                                   auto* writer) {
    seen = request;
    return happy(context, request, writer);
  };
  EXPECT_EQ(Run({"ask", "-", "Who came?"}, script).code, 0);
  EXPECT_EQ(seen.ShortDebugString(),
            "input { text: \"A text.\" } strategy: SUMMARY_STRATEGY_AUTO question: \"Who "
            "came?\" sampling { } attention { }");
}

TEST_F(CliTest, ChatHasTheSystemMessageFirst) {
  v1::GenerateRequest seen;
  Script script = HappyScript();
  script.generate = [&, happy = script.generate](auto* context, const auto& request,
                                                 auto* writer) {
    seen = request;
    return happy(context, request, writer);
  };
  EXPECT_EQ(Run({"generate", "--system", "Be brief.", "Hi", "--stop", "a", "--stop", "b",
                 "--stop-token-id", "5", "--ignore-eos"},
                script)
                .code,
            0);
  EXPECT_EQ(
      seen.ShortDebugString(),
      "input { chat { messages { role: \"system\" content: \"Be brief.\" } messages { "
      "role: \"user\" content: \"Hi\" } } } sampling { } stop: \"a\" stop: \"b\" "
      "stop_token_ids: 5 ignore_eos: true attention { }");
}

TEST_F(CliTest, StopStringDoesNotSwallowThePrompt) {
  EXPECT_EQ(Run({"generate", "--stop", "END", "Hello"}).code, 0);
}

TEST_F(CliTest, PromptFromAFile) {
  const TextFile file("From a file");
  v1::GenerateRequest seen;
  Script script = HappyScript();
  script.generate = [&, happy = script.generate](auto* context, const auto& request,
                                                 auto* writer) {
    seen = request;
    return happy(context, request, writer);
  };
  EXPECT_EQ(Run({"generate", "--file", file.path()}, script).code, 0);
  EXPECT_EQ(seen.input().text(), "From a file");
}

// ------------------------------------------------------------------ the smaller commands

TEST_F(CliTest, ScoreTotals) {
  const TextFile spans("0 2\n2 7\n");
  const auto result = Run({"score", "-", "--spans-file", spans.path()});
  EXPECT_EQ(result.out,
            "tokens scored  6\nlogprob        -3.0000\nper token      -0.5000\n"
            "perplexity     1.6487\n\n"
            "span                     tokens        logprob  per token\n"
            "0-2                           2        -1.0000    -0.5000\n"
            "2-7                           5        -2.5000    -0.5000\n");
}

TEST_F(CliTest, ScoreTableIsTabSeparated) {
  program_.input = "a\t\xC3\xA9";  // the fake's tokens are bytes: half characters too
  const auto result = Run({"score", "-", "--ranks", "--top", "2"});
  EXPECT_EQ(result.out,
            "index\toffset\tid\tlogprob\trank\ttop\ttext\n"
            "0\t0\t0\t\t0\t\ta\n"
            "1\t1\t1\t-0.5\t2\t100:-0.25 101:-0.5\t\\t\n"
            "2\t2\t2\t-0.5\t2\t100:-0.25 101:-0.5\t\\xc3\n"
            "3\t3\t3\t-0.5\t2\t100:-0.25 101:-0.5\t\\xa9\n");
  EXPECT_THAT(result.err, StartsWith("tokens scored  3\n"));
}

TEST_F(CliTest, ListsThatDoNotFitTogetherAreAnInternalError) {
  Script script;
  script.score = [](auto*, const auto&, auto* writer) {
    v1::ScoreResponse event;
    event.mutable_scores()->add_token_ids(1);
    writer->Write(event);
    return grpc::Status::OK;
  };
  const auto result = Run({"score", "-", "--per-token"}, script);
  EXPECT_EQ(result.code, 1);
  EXPECT_EQ(result.err,
            "quire: the server sent 1 ids with 0 logprobs, 0 offsets and 0 ranks\n");
}

TEST_F(CliTest, Tokens) {
  program_.input = "abc";
  auto result = Run({"tokens"});
  EXPECT_EQ(result.out, "3\n");
  EXPECT_EQ(result.err, "0.0 % of the model's 32,768\n");
  EXPECT_EQ(Run({"tokens", "--ids"}).out, "10 11 12\n");
  EXPECT_EQ(Run({"tokens", "--json"}).out, "{\"tokens\":3,\"context_tokens\":32768}\n");
  program_.input = "[72, 105]\n";
  EXPECT_EQ(Run({"tokens", "--decode"}).out, "Hi\n");
  program_.input = "72 x";
  result = Run({"tokens", "--decode"});
  EXPECT_EQ(result.code, 2);
  EXPECT_THAT(result.err, StartsWith("quire: \"x\" is not a token id"));
}

TEST_F(CliTest, Models) {
  const auto result = Run({"models"});
  EXPECT_EQ(result.out,
            "NAME  ARCH      PARAMS   CONTEXT  COMPUTE   WEIGHTS  KV CACHE  WRITES\n"
            "fake  llama       135M    32,768  bfloat16   269 MB    755 MB  yes\n");
  EXPECT_EQ(Json::parse(Run({"models", "fake", "--json"}).out)["models"][0]["parameters"],
            134515008);
  EXPECT_EQ(Run({"models", "other"}).code, 6);
  EXPECT_EQ(Run({"models", "other"}).err, "quire: no model \"other\"\n");
}

}  // namespace
}  // namespace quire::cli

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <fstream>
#include <string>
#include <vector>

#include "nlohmann/json.hpp"
#include "tests/client/fake_console.h"
#include "tests/client/fake_server.h"

namespace quire::cli {
namespace {

using client::testing::ErrorWithField;
using client::testing::ErrorWithRetryDelay;
using client::testing::FakeServer;
using client::testing::HappyScript;
using client::testing::Script;
using ::testing::HasSubstr;
using ::testing::Not;
using testing::Program;
using ::testing::StartsWith;
using Json = nlohmann::json;

constexpr char kSummary[] = "Three caf\xC3\xA9 words.\n";
constexpr char kFigures[] =
    "read 6,000 tokens in 4.00 s (1,500/s), wrote 3 in 0.10 s (30.0/s), "
    "first after 4.05 s, total 4.20 s\n";

class TextFile {
 public:
  explicit TextFile(const std::string& text) {
    path_ = ::testing::TempDir() + "quire_cli_test_" +
            ::testing::UnitTest::GetInstance()->current_test_info()->name() +
            std::to_string(count_++);
    std::ofstream(path_, std::ios::binary) << text;
  }
  ~TextFile() { std::remove(path_.c_str()); }
  const std::string& path() const { return path_; }

 private:
  static inline int count_ = 0;
  std::string path_;
};

// Runs the program against a server that plays the script.
class CliTest : public ::testing::Test {
 protected:
  Program::Result Run(std::vector<std::string> arguments, Script script = HappyScript()) {
    FakeServer server(std::move(script));
    arguments.insert(arguments.begin(), {"--server", server.address()});
    return program_.Run(arguments);
  }

  Program program_{.input = "A text."};
};

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
    event.mutable_text()->set_text("some");
    writer->Write(event);
    event.mutable_progress()->set_phase(v1::PHASE_DECODE);
    event.mutable_progress()->set_done_tokens(1);
    writer->Write(event);
    event.mutable_final();
    writer->Write(event);
    return grpc::Status::OK;
  };
  const auto result = Run({"generate", "x"}, script);
  EXPECT_EQ(result.out, "some\n");
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
                            std::string("\nSources, bytes of the text:\n  0-98  \"First "
                                        "line second ") +
                            std::string(42, 'x') + "...\"\n");
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
      "max_new_tokens: 77");
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
            "came?\" sampling { }");
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
      "stop_token_ids: 5 ignore_eos: true");
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

// ------------------------------------------------------------------ exit codes

class ServerErrorTest : public CliTest,
                        public ::testing::WithParamInterface<std::pair<int, int>> {};

TEST_P(ServerErrorTest, HasItsExitCode) {
  const auto [code, exit_code] = GetParam();
  Script script;
  script.summarize = [code = code](auto*, const auto&, auto*) {
    return grpc::Status(static_cast<grpc::StatusCode>(code), "because");
  };
  const auto result = Run({"summarize", "-"}, script);
  EXPECT_EQ(result.code, exit_code);
  EXPECT_EQ(result.out, "");
  EXPECT_THAT(result.err, StartsWith("quire: "));
  EXPECT_THAT(result.err, HasSubstr("because"));
}

INSTANTIATE_TEST_SUITE_P(
    All, ServerErrorTest,
    ::testing::Values(std::pair(1, 1), std::pair(2, 1), std::pair(3, 2), std::pair(4, 5),
                      std::pair(5, 6), std::pair(6, 1), std::pair(7, 4), std::pair(8, 4),
                      std::pair(9, 2), std::pair(10, 1), std::pair(11, 2),
                      std::pair(12, 1), std::pair(13, 1), std::pair(14, 3),
                      std::pair(15, 1), std::pair(16, 4)));

TEST_F(CliTest, FullServerSaysWhenToTryAgain) {
  Script script;
  script.summarize = [](auto*, const auto&, auto*) {
    return ErrorWithRetryDelay(grpc::StatusCode::RESOURCE_EXHAUSTED,
                               "the waiting room is full", absl::Seconds(90));
  };
  const auto result = Run({"summarize", "-"}, script);
  EXPECT_EQ(result.code, 4);
  EXPECT_EQ(result.err, "quire: the waiting room is full\n  try again in 1 min 30 s\n");
}

TEST_F(CliTest, NoServerIsExitCode3WithAHint) {
  const auto result = program_.Run({"models", "--server", "127.0.0.1:1"});
  EXPECT_EQ(result.code, 3);
  EXPECT_THAT(result.err, StartsWith("quire: no service from 127.0.0.1:1: "));
  EXPECT_THAT(
      result.err,
      HasSubstr(
          "\n  is a server running there? --server or QUIRE_SERVER names another\n"));
}

TEST_F(CliTest, TimeoutIsExitCode5) {
  Script script;
  script.summarize = [](auto* context, const auto&, auto*) {
    while (!context->IsCancelled()) absl::SleepFor(absl::Milliseconds(1));
    return grpc::Status::CANCELLED;
  };
  const auto result = Run({"summarize", "-", "--timeout", "50ms"}, script);
  EXPECT_EQ(result.code, 5);
  EXPECT_EQ(result.err, "quire: not done within --timeout 50ms\n");
}

TEST_F(CliTest, InterruptIsExitCode130AndKeepsTheTextSoFar) {
  Script script;
  script.generate = [](auto* context, const auto&, auto* writer) {
    v1::GenerateResponse event;
    event.mutable_text()->set_text("begun");
    writer->Write(event);
    while (!context->IsCancelled()) absl::SleepFor(absl::Milliseconds(1));
    return grpc::Status::CANCELLED;
  };
  program_.on_out = [this](std::string_view) { program_.cancel->Cancel(); };
  const auto result = Run({"generate", "x"}, script);
  EXPECT_EQ(result.code, 130);
  EXPECT_EQ(result.out, "begun\n");
  EXPECT_EQ(result.err, "quire: interrupted\n");
}

TEST_F(CliTest, ReaderThatLeftIsNoError) {
  program_.out_fails_after = 8;
  program_.out_failure = absl::CancelledError("EPIPE");
  const auto result = Run({"summarize", "-"});
  EXPECT_EQ(result.code, 0);
  EXPECT_EQ(result.out, "Three ");
  EXPECT_EQ(result.err, "");
}

TEST_F(CliTest, FullDiskIsAnError) {
  program_.out_fails_after = 8;
  program_.out_failure = absl::UnknownError("No space left on device");
  const auto result = Run({"summarize", "-"});
  EXPECT_EQ(result.code, 1);
  EXPECT_EQ(result.err, "quire: cannot write the output: No space left on device\n");
}

TEST_F(CliTest, StreamWithoutFinalIsAnError) {
  Script script;
  script.summarize = [](auto*, const auto&, auto*) { return grpc::Status::OK; };
  const auto result = Run({"summarize", "-"}, script);
  EXPECT_EQ(result.code, 1);
  EXPECT_EQ(result.err, "quire: the server ended the call without its final event\n");
}

// ------------------------------------------------------------------ bad input, before
// sending

TEST_F(CliTest, BadFilesAreNamed) {
  auto result = Run({"summarize", "/no/such/file"}, Script());
  EXPECT_EQ(result.code, 2);
  EXPECT_EQ(result.err,
            "quire: cannot read \"/no/such/file\": No such file or directory\n");
  result = Run({"summarize", ::testing::TempDir()}, Script());
  EXPECT_EQ(result.code, 2);
  EXPECT_THAT(result.err, HasSubstr("Is a directory"));
  const TextFile empty(""), latin1("caf\xE9!");
  result = Run({"score", empty.path()}, Script());
  EXPECT_EQ(result.code, 2);
  EXPECT_EQ(result.err, "quire: \"" + empty.path() + "\" is empty\n");
  result = Run({"ask", latin1.path(), "why?"}, Script());
  EXPECT_EQ(result.code, 2);
  EXPECT_EQ(result.err,
            "quire: \"" + latin1.path() +
                "\" is not UTF-8: byte 0xE9 at offset 3; convert it first, for "
                "example with iconv\n");
  program_.input = "";
  EXPECT_EQ(Run({"tokens"}, Script()).err, "quire: standard input is empty\n");
}

TEST_F(CliTest, LongInputIsReadWhole) {
  program_.input.clear();
  while (program_.input.size() < 600'000) program_.input += "caf\xC3\xA9 ";
  EXPECT_EQ(Run({"tokens"}).out, "600000\n");
}

TEST_F(CliTest, TerminalIsNotReadUnasked) {
  program_.in_terminal = true;
  auto result = Run({"summarize"});
  EXPECT_EQ(result.code, 2);
  EXPECT_EQ(result.err, "quire: name a FILE, or - to read from the terminal\n");
  result = Run({"summarize", "-"});
  EXPECT_EQ(result.code, 0);
  EXPECT_THAT(result.err, StartsWith("reading from the terminal; "));
}

TEST_F(CliTest, BadSpansFile) {
  const TextFile spans("0 x\n");
  const auto result = Run({"score", "-", "--spans-file", spans.path()});
  EXPECT_EQ(result.code, 2);
  EXPECT_EQ(result.err,
            "quire: line 1 of the spans is \"0 x\"; it must be two numbers, BEGIN END\n");
}

class UsageErrorTest : public ::testing::TestWithParam<std::vector<std::string>> {};

TEST_P(UsageErrorTest, IsExitCode2OnStderr) {
  Program program;
  const auto result = program.Run(GetParam());
  EXPECT_EQ(result.code, 2);
  EXPECT_EQ(result.out, "");
  EXPECT_THAT(result.err, StartsWith("quire: "));
}

INSTANTIATE_TEST_SUITE_P(
    All, UsageErrorTest,
    ::testing::Values(std::vector<std::string>{},
                      std::vector<std::string>{"sumarize", "x"},
                      std::vector<std::string>{"summarize", "-", "--bogus"},
                      std::vector<std::string>{"summarize", "-", "extra"},
                      std::vector<std::string>{"summarize", "-", "--words", "many"},
                      std::vector<std::string>{"summarize", "-", "--words"},
                      std::vector<std::string>{"summarize", "-", "--strategy", "magic"},
                      std::vector<std::string>{"summarize", "-", "--seed", "-1"},
                      std::vector<std::string>{"summarize", "-", "--top-k", "3000000000"},
                      std::vector<std::string>{"summarize", "-", "-q", "-v"},
                      std::vector<std::string>{"ask", "-"},
                      std::vector<std::string>{"generate"},
                      std::vector<std::string>{"generate", "x", "--file", "y"},
                      std::vector<std::string>{"generate", "x", "--logprobs"},
                      std::vector<std::string>{"tokens", "--ids", "--decode"},
                      std::vector<std::string>{"tokens", "--add-special"},
                      std::vector<std::string>{"models", "--timeout", "soon"},
                      std::vector<std::string>{"models", "--server", ""},
                      std::vector<std::string>{"models", "--request-id", "a\nb"}));

TEST(HelpTest, EveryCommandHasExamples) {
  Program program;
  for (const char* command :
       {"summarize", "ask", "generate", "score", "tokens", "models"}) {
    const auto result = program.Run({command, "--help"});
    EXPECT_EQ(result.code, 0);
    EXPECT_EQ(result.err, "");
    EXPECT_THAT(result.out, HasSubstr(std::string("  quire ") + command));
  }
}

TEST(HelpTest, DocumentsTheExitCodes) {
  Program program;
  const auto result = program.Run({"--help"});
  EXPECT_EQ(result.code, 0);
  for (const char* code : {"0", "1", "2", "3", "4", "5", "6", "130", "143"}) {
    EXPECT_THAT(result.out, HasSubstr("\n  " + std::string(code) + " "));
  }
  EXPECT_THAT(program.Run({"--version"}).out, StartsWith("quire 0."));
}

}  // namespace
}  // namespace quire::cli

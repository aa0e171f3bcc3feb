#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

#include "tests/client/cli_fixture.h"
#include "tests/client/fake_server.h"

namespace quire::cli {
namespace {

using client::testing::ErrorWithRetryDelay;
using client::testing::Script;
using testing::CliTest;
using ::testing::HasSubstr;
using testing::Program;
using ::testing::StartsWith;
using testing::TextFile;

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

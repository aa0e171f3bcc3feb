#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <limits>
#include <mutex>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "tests/client/cli_fixture.h"
#include "tests/client/fake_server.h"
#include "tests/support/temp_path.h"

// `quire calibrate` against a server that plays a script: a token a byte, and a sparse
// reading that errs the more the larger eps is.
namespace quire::cli {
namespace {

namespace fs = std::filesystem;
using client::testing::HappyScript;
using client::testing::Script;
using testing::CliTest;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;
using testing::Program;
using Json = nlohmann::json;

void FillReceipt(v1::Receipt& receipt, const v1::AttentionOptions& attention,
                 int64_t tokens) {
  receipt.set_mode(attention.mode());
  v1::AttentionWork& work = *receipt.mutable_prefill();
  work.set_dense_macs(1000 * tokens);
  work.set_dense_columns(10 * tokens);
  work.set_attention_macs(1000 * tokens);
  work.set_columns(10 * tokens);
  if (attention.mode() == v1::ATTENTION_MODE_DENSE) return;
  // eps 0.02: 0.8 of dense work, and less the larger it is.
  const auto macs = static_cast<int64_t>(16 / attention.eps() * tokens);
  work.set_attention_macs(macs);
  work.set_columns(tokens);
  receipt.set_coverage(0.9);
  receipt.set_audited_tokens(4);
  receipt.set_audited_error(attention.eps() / 2);
  receipt.set_max_audited_error(attention.eps());
}

// Every 1 / eps^2 / 2-th token differs in its most probable one, all in the logprob.
grpc::Status Score(const v1::ScoreRequest& request,
                   grpc::ServerWriter<v1::ScoreResponse>* writer) {
  const v1::AttentionOptions& attention = request.options().attention();
  const auto tokens = static_cast<int64_t>(request.input().text().size());
  const bool dense = attention.mode() == v1::ATTENTION_MODE_DENSE;
  const auto period =
      dense ? int64_t{1} << 40
            : static_cast<int64_t>(std::lround(0.5 / attention.eps() / attention.eps()));
  v1::ScoreResponse event;
  event.mutable_progress()->set_phase(v1::PHASE_PREFILL);
  event.mutable_progress()->set_total_tokens(tokens);
  writer->Write(event);
  v1::TokenScores& scores = *event.mutable_scores();
  for (int64_t i = 0; i < tokens; ++i) {
    scores.add_token_ids(7);
    if (i == 0) {
      scores.add_logprobs(std::numeric_limits<float>::quiet_NaN());
      continue;
    }
    scores.add_logprobs(dense ? -2.0f : -2.0f - attention.eps());
    scores.add_top()->set_token_id(i % period == period - 1 ? 8 : 7);
  }
  writer->Write(event);
  v1::ScoreFinal& final = *event.mutable_final();
  final.mutable_timings()->set_prefill_seconds(dense ? 2 : 1);
  FillReceipt(*final.mutable_receipt(), attention, tokens);
  writer->Write(event);
  return grpc::Status::OK;
}

class CalibrateTest : public CliTest {
 protected:
  CalibrateTest() { fs::create_directories(folder_); }
  ~CalibrateTest() override {
    fs::remove_all(folder_);
    fs::remove_all(out_);
  }

  void Write(const std::string& path, const std::string& text) {
    std::ofstream(fs::path(folder_) / path, std::ios::binary) << text;
  }
  // Documents that are long enough by default.
  void WriteDocuments(int count) {
    for (int i = 0; i < count; ++i) {
      Write(absl::StrCat("doc", i, ".txt"), std::string(9000 + 10 * i, 'x'));
    }
  }
  std::string Read(const std::string& name) const {
    std::ifstream file(fs::path(out_) / name, std::ios::binary);
    return std::string(std::istreambuf_iterator<char>(file), {});
  }

  // Keeps how each Score call was to read; fails the n-th call, if n is not zero.
  Script Recording(int failing = 0,
                   grpc::Status failure = grpc::Status(grpc::StatusCode::INTERNAL, "x")) {
    Script script = HappyScript();
    script.score = [this, failing, failure](auto*, const auto& request, auto* writer) {
      {
        const std::lock_guard lock(mutex_);
        asked_.push_back(request.options());
        if (static_cast<int>(asked_.size()) == failing) return failure;
      }
      return Score(request, writer);
    };
    return script;
  }

  Program::Result Calibrate(std::vector<std::string> more, Script script) {
    std::vector<std::string> arguments = {"calibrate", folder_, "--out", out_};
    arguments.insert(arguments.end(), more.begin(), more.end());
    asked_.clear();
    return Run(std::move(arguments), std::move(script));
  }
  Program::Result Calibrate(std::vector<std::string> more = {}) {
    return Calibrate(std::move(more), Recording());
  }

  const std::string folder_ = TempPath("calibrate_docs");
  const std::string out_ = TempPath("calibrate_out");
  std::mutex mutex_;
  std::vector<v1::ScoreOptions> asked_;
};

TEST_F(CalibrateTest, MeasuresRecommendsAndWritesWhatTheServerTakes) {
  WriteDocuments(8);
  const auto result =
      Calibrate({"--agreement", "0.995", "--refine", "0", "--eps", "0.02,0.04,0.08"});
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_EQ(asked_.size(), 8u * 4u);
  // eps 0.04 errs every 312th token, eps 0.08 every 78th.
  EXPECT_THAT(result.out, HasSubstr("recommended: eps 0.04, max_error 0.05\n"));
  EXPECT_THAT(result.out, HasSubstr("60.0 % of attention's work saved\n"));
  EXPECT_THAT(result.out, HasSubstr("reading was 2.00 times as fast as densely"));
  EXPECT_EQ(Json::parse(Read("config.json")),
            Json::parse(R"({"attention_mode": "auto", "attention_eps": 0.04,
                            "attention_max_error": 0.05,
                            "attention_min_sparse_tokens": 4096})"));
  EXPECT_THAT(Read("report.html"), HasSubstr("<h2>Documents at eps 0.04</h2>"));
  EXPECT_THAT(result.err, HasSubstr("for the server: " + out_ + "/config.json"));
}

TEST_F(CalibrateTest, WhatIsMeasuredIsWhatTheServerWillDo) {
  WriteDocuments(1);
  EXPECT_EQ(
      Calibrate({"--attention", "refined", "--eps", "0.04", "--refine", "0",
                 "--min-sparse-tokens", "500", "--priority", "-2", "--model", "fake"})
          .code,
      0);
  ASSERT_EQ(asked_.size(), 2u);
  EXPECT_EQ(asked_[0].ShortDebugString(),
            "model: \"fake\" top_logprobs: 1 attention { mode: ATTENTION_MODE_DENSE } "
            "priority: -2");
  EXPECT_EQ(asked_[1].ShortDebugString(),
            "model: \"fake\" top_logprobs: 1 attention { mode: ATTENTION_MODE_REFINED "
            "eps: 0.04 max_error: 1 min_sparse_tokens: 500 } priority: -2");
  EXPECT_EQ(Json::parse(Read("config.json"))["attention_min_sparse_tokens"], 500);
}

TEST_F(CalibrateTest, OnlyTokensThatMayBeReadSparselyAreCompared) {
  Write("a.txt", std::string(5000, 'x'));
  const auto result = Calibrate({"--eps", "0.04", "--refine", "0", "--json"});
  EXPECT_EQ(Json::parse(result.out)["measured"][0]["tokens"], 5000 - 4096);
}

TEST_F(CalibrateTest, TheGridIsRefinedWhereTheAnswerLies) {
  WriteDocuments(8);
  const Json json = Json::parse(Calibrate({"--agreement", "0.99", "--json"}).out);
  std::vector<double> measured;
  for (const Json& entry : json["measured"]) measured.push_back(entry["eps"]);
  EXPECT_THAT(measured, ElementsAre(0.02, 0.04, 0.0566, 0.0673, 0.08, 0.16));
  EXPECT_EQ(json["config"]["attention_eps"], 0.0673);
}

TEST_F(CalibrateTest, WhereNoEpsIsGoodEnoughItSaysDense) {
  WriteDocuments(8);
  const auto result = Calibrate({"--max-drift", "0.001", "--refine", "8"});
  EXPECT_EQ(result.code, 0);
  EXPECT_THAT(result.out, HasSubstr("recommended: dense\n"));
  EXPECT_EQ(Read("config.json"), "{\n  \"attention_mode\": \"dense\"\n}\n");
}

TEST_F(CalibrateTest, AnInterruptedRunGoesOnWhereItWas) {
  WriteDocuments(3);
  const std::vector<std::string> flags = {"--eps", "0.02,0.04", "--refine", "0"};
  // Dense, 0.02, 0.04 of the first document, dense of the second.
  const auto broken = Calibrate(flags, Recording(/*failing=*/5));
  EXPECT_EQ(broken.code, 1);
  EXPECT_THAT(broken.err, HasSubstr("what was measured is kept in \"" + out_ + "\""));
  const auto again = Calibrate(flags);
  EXPECT_EQ(again.code, 0);
  EXPECT_EQ(asked_.size(), 9u - 4u);
  EXPECT_EQ(asked_[0].attention().eps(), 0.02f);
  EXPECT_THAT(again.err, HasSubstr("2 readings were there already\n"));
  const auto third = Calibrate(flags);
  EXPECT_EQ(third.code, 0);
  EXPECT_TRUE(asked_.empty());
  EXPECT_EQ(third.out, again.out);
}

TEST_F(CalibrateTest, AChangedDocumentIsMeasuredAgainAndOthersAreNot) {
  WriteDocuments(3);
  const std::vector<std::string> flags = {"--eps", "0.04", "--refine", "0"};
  Calibrate(flags);
  Write("doc1.txt", std::string(9500, 'y'));
  Calibrate(flags);
  EXPECT_EQ(asked_.size(), 2u);
}

TEST_F(CalibrateTest, OtherOptionsMeasureAgainButNotDensely) {
  WriteDocuments(1);
  Calibrate({"--eps", "0.04", "--refine", "0"});
  const auto result =
      Calibrate({"--eps", "0.04", "--refine", "0", "--min-sparse-tokens", "2000"});
  ASSERT_EQ(asked_.size(), 1u);
  EXPECT_EQ(asked_[0].attention().min_sparse_tokens(), 2000);
  EXPECT_THAT(result.err, HasSubstr("1 readings in \"" + out_ +
                                    "\" are of another model or other options"));
}

TEST_F(CalibrateTest, FreshMeasuresAgain) {
  WriteDocuments(1);
  Calibrate({"--eps", "0.04", "--refine", "0"});
  Calibrate({"--eps", "0.04", "--refine", "0", "--fresh"});
  EXPECT_EQ(asked_.size(), 2u);
}

TEST_F(CalibrateTest, AServerThatRestartsMeanwhileIsWaitedFor) {
  WriteDocuments(1);
  Script script = HappyScript();
  std::atomic<int> calls = 0;
  script.score = [&](auto*, const auto& request, auto* writer) {
    if (++calls == 2) {
      v1::ScoreResponse event;
      event.mutable_progress()->set_total_tokens(9000);
      writer->Write(event);  // the library tries again only what has not begun
      return grpc::Status(grpc::StatusCode::UNAVAILABLE, "shutting down");
    }
    return Score(request, writer);
  };
  const auto result = Calibrate({"--eps", "0.04", "--refine", "0", "-v"}, script);
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_EQ(calls, 3);
  EXPECT_THAT(result.err, HasSubstr("trying again in 1.00 s: shutting down"));
}

TEST_F(CalibrateTest, CtrlCKeepsWhatWasMeasured) {
  WriteDocuments(2);
  Script script = HappyScript();
  std::atomic<int> calls = 0;
  script.score = [&](auto*, const auto& request, auto* writer) {
    const grpc::Status status = Score(request, writer);
    if (++calls == 2) program_.cancel->Cancel();
    return status;
  };
  const auto result = Calibrate({"--eps", "0.04", "--refine", "0"}, script);
  EXPECT_EQ(result.code, 130);
  EXPECT_THAT(result.err, HasSubstr("the same command goes on from there\n"));
  EXPECT_THAT(result.err, HasSubstr("quire: interrupted"));
}

TEST_F(CalibrateTest, AnEmptyFolderIsAnError) {
  const auto result = Calibrate();
  EXPECT_EQ(result.code, 2);
  EXPECT_THAT(result.err, HasSubstr("there is no document in \"" + folder_ + "\""));
  EXPECT_FALSE(fs::exists(out_));
}

TEST_F(CalibrateTest, NothingButUnfitFilesIsAnErrorThatNamesThem) {
  Write("a.txt", std::string("x\0y", 3));
  Write("b.md", "");
  Write("c.pdf", "%PDF");
  const auto result = Calibrate();
  EXPECT_EQ(result.code, 2);
  EXPECT_THAT(result.err, HasSubstr("skipped a.txt: binary: byte 1 is zero\n"));
  EXPECT_THAT(result.err, HasSubstr("skipped b.md: empty\n"));
  EXPECT_THAT(result.err, HasSubstr("skipped 2 of them and passed 1 other files"));
}

TEST_F(CalibrateTest, OneTinyFileIsNamedWithTheLimit) {
  Write("tiny.txt", "A text.");
  const auto result = Calibrate();
  EXPECT_EQ(result.code, 2);
  EXPECT_THAT(result.err,
              HasSubstr("quire: no document is long enough to be read sparsely: the "
                        "longest of 1 has 7 tokens, and that begins beyond 4,096 tokens "
                        "(min_sparse_tokens); --min-sparse-tokens lowers it\n"));
  EXPECT_TRUE(asked_.empty());
}

TEST_F(CalibrateTest, ShortDocumentsAreCountedButNotCompared) {
  WriteDocuments(1);
  Write("short.txt", std::string(4096, 'x'));
  const auto result = Calibrate({"--eps", "0.04", "--refine", "0", "-v"});
  EXPECT_EQ(result.code, 0);
  EXPECT_EQ(asked_.size(), 2u);
  EXPECT_THAT(result.err, HasSubstr("short.txt: 4,096 tokens, too short"));
  EXPECT_THAT(result.err, HasSubstr("whatever eps is: 1 of 2 documents"));
  EXPECT_THAT(Read("report.html"), HasSubstr("<td>short.txt</td>"));
}

TEST_F(CalibrateTest, AServerThatReadsInAnotherModeIsRefused) {
  WriteDocuments(1);
  Script script = HappyScript();
  script.score = [](auto*, const auto& request, auto* writer) {
    v1::ScoreRequest dense = request;
    dense.mutable_options()->mutable_attention()->set_mode(v1::ATTENTION_MODE_DENSE);
    return Score(dense, writer);
  };
  const auto result = Calibrate({}, script);
  EXPECT_EQ(result.code, 2);
  EXPECT_THAT(result.err, HasSubstr("the server read with attention mode DENSE where it "
                                    "was asked for AUTO"));
}

TEST_F(CalibrateTest, AServerThatReadsAllDenselyHasNothingToCalibrate) {
  WriteDocuments(1);
  Script script = HappyScript();
  script.score = [](auto*, const auto& request, auto* writer) {
    v1::ScoreRequest dense = request;
    dense.mutable_options()->mutable_attention()->set_mode(v1::ATTENTION_MODE_DENSE);
    v1::ScoreResponse event;
    event.mutable_scores();
    for (size_t i = 0; i < request.input().text().size(); ++i) {
      event.mutable_scores()->add_logprobs(-1);
      event.mutable_scores()->add_top()->set_token_id(1);
    }
    writer->Write(event);
    event.mutable_final()->mutable_receipt()->set_mode(
        request.options().attention().mode());
    writer->Write(event);
    return grpc::Status::OK;
  };
  const auto result = Calibrate({}, script);
  EXPECT_EQ(result.code, 2);
  EXPECT_THAT(result.err, HasSubstr("the server read all documents densely under AUTO"));
}

TEST_F(CalibrateTest, AnswersThatDoNotFitTogetherAreAnError) {
  WriteDocuments(1);
  Script script = HappyScript();
  script.score = [](auto*, const auto&, auto* writer) {
    v1::ScoreResponse event;
    event.mutable_scores()->add_logprobs(-1);
    writer->Write(event);
    return grpc::Status::OK;
  };
  const auto result = Calibrate({}, script);
  EXPECT_EQ(result.code, 1);
  EXPECT_THAT(result.err, HasSubstr("fewer top tokens than logprobs"));
}

TEST_F(CalibrateTest, AFolderThatCannotBeWrittenIsNamed) {
  WriteDocuments(1);
  std::ofstream(out_.c_str()) << "in the way";
  const auto result = Calibrate();
  EXPECT_EQ(result.code, 2);
  EXPECT_THAT(result.err, HasSubstr("cannot write \"" + out_ + "\": "));
  EXPECT_TRUE(asked_.empty());
}

TEST_F(CalibrateTest, AServerThatIsNotThereIsExitCode3) {
  WriteDocuments(1);
  const auto result =
      program_.Run({"calibrate", folder_, "--out", out_, "--server", "127.0.0.1:1"});
  EXPECT_EQ(result.code, 3);
}

TEST_F(CalibrateTest, OptionsNameTheirLimitsAndValues) {
  WriteDocuments(1);
  const std::vector<std::pair<std::vector<std::string>, std::string>> cases = {
      {{"--agreement", "1.5"}, "--agreement is 1.5; it must be in (0, 1]"},
      {{"--agreement", "0"}, "--agreement is 0; it must be in (0, 1]"},
      {{"--max-drift", "-1"}, "--max-drift is -1; it must be in (0, 100]"},
      {{"--confidence", "1"}, "--confidence is 1; it must be in [0.5, 1)"},
      {{"--max-documents", "0"}, "--max-documents is 0; it must be in [1, 10000]"},
      {{"--refine", "9"}, "--refine is 9; it must be in [0, 8]"},
      {{"--min-sparse-tokens", "192"},
       "--min-sparse-tokens is 192; it must be in [193, "},
      {{"--eps", "0.1,x"}, "--eps has \"x\"; it must be numbers in (0, 1]"},
      {{"--eps", "0"}, "--eps has \"0\"; it must be numbers in (0, 1]"},
      {{"--attention", "dense"}, "--attention"},
  };
  for (const auto& [flags, message] : cases) {
    const auto result = Calibrate(flags);
    EXPECT_EQ(result.code, 2) << message;
    EXPECT_THAT(result.err, HasSubstr(message));
    EXPECT_TRUE(asked_.empty());
  }
}

TEST_F(CalibrateTest, ProgressIsDrawnOverAllReadings) {
  WriteDocuments(2);
  program_.err_terminal = true;
  const auto result = Calibrate({"--eps", "0.04", "--refine", "0"});
  EXPECT_THAT(result.err, HasSubstr("0/36,020 tokens"));
  EXPECT_THAT(result.err, HasSubstr("27,010/36,020 tokens"));
}

TEST_F(CalibrateTest, OfManyDocumentsSomeAreDrawn) {
  WriteDocuments(5);
  const auto result =
      Calibrate({"--eps", "0.04", "--refine", "0", "--max-documents", "2"});
  EXPECT_EQ(asked_.size(), 4u);
  EXPECT_THAT(result.err, HasSubstr("drew 2 of 5 documents"));
}

}  // namespace
}  // namespace quire::cli

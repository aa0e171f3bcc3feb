#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <string>

#include "nlohmann/json.hpp"
#include "tests/client/cli_fixture.h"
#include "tests/client/fake_server.h"

// `quire top` against a server that plays a script.
namespace quire::cli {
namespace {

using client::testing::HappyScript;
using client::testing::Script;
using testing::CliTest;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::Not;
using testing::Program;
using ::testing::StartsWith;
using Json = nlohmann::json;

constexpr char kEnter[] = "\x1b[?1049h\x1b[?25l";
constexpr char kLeave[] = "\x1b[?25h\x1b[?1049l";

class TopTest : public CliTest {
 protected:
  // On a terminal, until so many frames were drawn.
  Program::Result Watch(int frames, Script script = HappyScript(),
                        std::vector<std::string> arguments = {"top"}) {
    program_.out_terminal = true;
    program_.on_out = [this, frames, seen = 0](std::string_view bytes) mutable {
      if (bytes.starts_with("\x1b[H") && ++seen == frames) program_.cancel->Cancel();
    };
    return Run(std::move(arguments), std::move(script));
  }

  static int Frames(const std::string& out) {
    int frames = 0;
    for (size_t at = 0; (at = out.find("\x1b[H", at)) != std::string::npos; ++at) {
      ++frames;
    }
    return frames;
  }
};

TEST_F(TopTest, WithoutATerminalItPrintsOneLook) {
  const auto result = Run({"top"});
  EXPECT_EQ(result.code, 0);
  EXPECT_EQ(result.err, "");
  EXPECT_THAT(result.out, StartsWith("quire top   127.0.0.1:"));
  EXPECT_THAT(result.out,
              HasSubstr("\n\nfake   busy   llama 135M, 32,768 tokens\n"
                        "  requests  3 of 256 running   2 of 64 waiting   1,234 tokens "
                        "wait   2 tenants\n"));
  EXPECT_THAT(result.out, Not(HasSubstr("\x1b")));
}

TEST_F(TopTest, OnceIsOneLookOnATerminalToo) {
  program_.out_terminal = true;
  const auto result = Run({"top", "--once"});
  EXPECT_EQ(result.code, 0);
  EXPECT_THAT(result.out, EndsWith("  measured  no request was repeated densely yet\n"));
  EXPECT_THAT(result.out, Not(HasSubstr("\x1b")));
}

TEST_F(TopTest, JsonHasTheLoadOfEveryModel) {
  Script script = HappyScript();
  script.list_models = [](auto*, const auto&, v1::ListModelsResponse* response) {
    response->add_models()->set_name("a");
    response->add_models()->set_name("b");
    return grpc::Status::OK;
  };
  script.get_load = [](auto*, const auto& request, v1::GetLoadResponse* response) {
    response->mutable_load()->set_model(request.model());
    return grpc::Status::OK;
  };
  const Json json = Json::parse(Run({"top", "--json"}, script).out);
  ASSERT_EQ(json["models"].size(), 2u);
  EXPECT_EQ(json["models"][0]["model"], "a");
  EXPECT_EQ(json["models"][1]["model"], "b");
}

TEST_F(TopTest, TheTerminalIsAsItWasAfterCtrlC) {
  const auto result = Watch(3);
  EXPECT_EQ(result.code, 0);  // there is no other way to end it
  EXPECT_EQ(result.err, "");
  EXPECT_THAT(result.out, StartsWith(kEnter));
  EXPECT_THAT(result.out, EndsWith(kLeave));
  EXPECT_EQ(Frames(result.out), 3);
  EXPECT_THAT(result.out, HasSubstr("##"));  // two looks make a curve
}

TEST_F(TopTest, AServerThatGoesAndComesBack) {
  std::atomic<int> looks = 0;
  Script script = HappyScript();
  script.get_load = [&, happy = script.get_load](auto* context, const auto& request,
                                                 auto* response) {
    // Four attempts make one look.
    if (const int look = ++looks; look > 1 && look <= 5) {
      return grpc::Status(grpc::StatusCode::UNAVAILABLE, "gone");
    }
    return happy(context, request, response);
  };
  const auto result = Watch(3, script);
  EXPECT_EQ(result.code, 0);
  const size_t trouble = result.out.find("no answer, still trying");
  ASSERT_NE(trouble, std::string::npos);
  EXPECT_THAT(result.out.substr(trouble), HasSubstr("gone"));
  // The last frame is well again.
  const std::string last = result.out.substr(result.out.rfind("\x1b[H"));
  EXPECT_THAT(last, Not(HasSubstr("no answer")));
  EXPECT_THAT(last, HasSubstr("3 of 256 running"));
}

TEST_F(TopTest, AServerThatIsNotThereYetIsWaitedFor) {
  Script script = HappyScript();
  script.list_models = [](auto*, const auto&, auto*) {
    return grpc::Status(grpc::StatusCode::UNAVAILABLE, "loading");
  };
  const auto result = Watch(2, script);
  EXPECT_EQ(result.code, 0);
  EXPECT_EQ(Frames(result.out), 2);
  EXPECT_THAT(result.out, HasSubstr("loading"));
}

TEST_F(TopTest, WithoutATerminalAServerThatIsNotThereIsAnError) {
  Script script;
  script.list_models = [](auto*, const auto&, auto*) {
    return grpc::Status(grpc::StatusCode::UNAVAILABLE, "loading");
  };
  const auto result = Run({"top"}, script);
  EXPECT_EQ(result.code, 3);
  EXPECT_EQ(result.out, "");
  EXPECT_THAT(result.err, HasSubstr("loading"));
}

TEST_F(TopTest, WhatWillNotPassEndsIt) {
  const auto result = Watch(9, HappyScript(), {"top", "--model", "other"});
  EXPECT_EQ(result.code, 6);
  EXPECT_THAT(result.out, EndsWith(kLeave));
  EXPECT_THAT(result.err, HasSubstr("no model \"other\""));
}

TEST_F(TopTest, ADrainingServerThatListsNothingIsStillWatched) {
  std::atomic<int> lists = 0;
  Script script = HappyScript();
  script.list_models = [&, happy = script.list_models](auto* context, const auto& request,
                                                       auto* response) {
    if (++lists > 1) return grpc::Status(grpc::StatusCode::UNAVAILABLE, "draining");
    return happy(context, request, response);
  };
  std::atomic<int> looks = 0;
  script.get_load = [&, happy = script.get_load](auto* context, const auto& request,
                                                 auto* response) {
    if (++looks == 2) return grpc::Status(grpc::StatusCode::INTERNAL, "hiccup");
    const grpc::Status status = happy(context, request, response);
    response->mutable_load()->set_draining(looks > 2);
    return status;
  };
  const auto result = Watch(3, script);
  EXPECT_EQ(result.code, 0);
  EXPECT_THAT(result.out.substr(result.out.rfind("\x1b[H")),
              HasSubstr("draining: takes no new requests"));
}

TEST_F(TopTest, TheIntervalHasLimits) {
  for (const char* interval : {"99ms", "2h", "-1", "soon"}) {
    const auto result = Run({"top", "--interval", interval});
    EXPECT_EQ(result.code, 2) << interval;
    EXPECT_THAT(result.err, HasSubstr("--interval is \"" + std::string(interval) + "\""));
  }
}

TEST_F(TopTest, AReaderThatLeavesEndsItWithoutAWord) {
  program_.out_terminal = true;
  program_.out_fails_after = 200;
  program_.out_failure = absl::CancelledError("nobody reads");
  const auto result = Run({"top"});
  EXPECT_EQ(result.code, 0);
  EXPECT_EQ(result.err, "");
}

}  // namespace
}  // namespace quire::cli

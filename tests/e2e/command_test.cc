#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/e2e/service.h"

// The commands of `quire` against the real server, with the small model.
namespace quire::e2e {
namespace {

using Json = nlohmann::json;
using testing::HasSubstr;

class CommandTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    server_ =
        std::make_unique<Server>(std::vector<std::string>{ModelFolder("quire-19m")});
    ASSERT_TRUE(server_->ready()) << server_->log();
  }
  static void TearDownTestSuite() {
    EXPECT_EQ(server_->Stop(), 0) << server_->log();
    server_.reset();
  }

  static std::string Out(const std::vector<std::string>& arguments,
                         const std::string& input = "") {
    const ProcessResult quire = RunQuire(*server_, arguments, input);
    EXPECT_EQ(quire.exit_code, 0) << quire.err;
    return quire.out;
  }

  static inline std::unique_ptr<Server> server_;
};

std::vector<std::string> Draw(int seed) {
  return {"generate", "Once upon a time", "--temperature", "1",  "--ignore-eos",
          "--seed",   absl::StrCat(seed), "--max-tokens",  "32", "--quiet"};
}

TEST_F(CommandTest, TheSameSeedGivesTheSameAnswer) {
  const std::string first = Out(Draw(7));
  EXPECT_GT(first.size(), 40u);
  EXPECT_EQ(Out(Draw(7)), first);
  EXPECT_NE(Out(Draw(8)), first);
}

TEST_F(CommandTest, TheSeedThatTheServerChoseGivesTheAnswerAgain) {
  std::vector<std::string> arguments = {"generate", "Once upon a time", "--temperature",
                                        "1",        "--max-tokens",     "16",
                                        "--json"};
  const Json first = Json::parse(Out(arguments));
  arguments.insert(arguments.end(),
                   {"--seed", absl::StrCat(first.at("seed").get<uint64_t>())});
  EXPECT_EQ(Json::parse(Out(arguments)).at("text"), first.at("text"));
}

TEST_F(CommandTest, AFileAndStandardInputAreTheSame) {
  const std::string text = SampleText(1500);
  const TemporaryFile file(text);
  const std::vector<std::string> rest = {"--max-tokens", "8", "--quiet"};
  const auto generate = [&](const std::string& path, const std::string& input) {
    std::vector<std::string> arguments = {"generate", "--file", path};
    arguments.insert(arguments.end(), rest.begin(), rest.end());
    return Out(arguments, input);
  };
  EXPECT_EQ(generate("-", text), generate(file.path(), ""));
  EXPECT_EQ(Out({"tokens", "-"}, text), Out({"tokens", file.path()}));
}

TEST_F(CommandTest, AStopStringEndsTheAnswerBeforeIt) {
  const std::string whole = Out({"generate", "One two three four five six seven",
                                 "--max-tokens", "24", "--ignore-eos", "--quiet"});
  const std::string stop = whole.substr(whole.size() / 2, 4);
  const Json json =
      Json::parse(Out({"generate", "One two three four five six seven", "--max-tokens",
                       "24", "--ignore-eos", "--stop", stop, "--json"}));
  EXPECT_EQ(json.at("finish_reason"), "STOP");
  EXPECT_EQ(json.at("stop"), stop);
  EXPECT_EQ(json.at("text"), whole.substr(0, whole.find(stop)));
}

TEST_F(CommandTest, TokensThereAndBack) {
  const std::string text = "The caf\u00e9's \U0001F600 door, 12345.\n";
  const std::string ids = Out({"tokens", "-", "--ids"}, text);
  EXPECT_EQ(Out({"tokens", "-", "--decode"}, ids), text);
}

// Beyond the 4 MiB that clients may receive by default.
TEST_F(CommandTest, ALongFileIsCounted) {
  std::string text;
  while (text.size() < (5u << 20)) text += SampleText();
  EXPECT_GT(std::stoi(Out({"tokens", "-"}, text)), 1'000'000);
}

TEST_F(CommandTest, ModelsListsWhatIsServed) {
  const Json models = Json::parse(Out({"models", "--json"})).at("models");
  ASSERT_EQ(models.size(), 1u);
  EXPECT_EQ(models[0].at("name"), "quire-19m");
  EXPECT_EQ(models[0].at("architecture"), "llama");
  EXPECT_EQ(models[0].at("context_tokens"), 16'384);
  EXPECT_EQ(models[0].at("vocab_size"), 8192);
  EXPECT_EQ(models[0].at("instruction_tuned"), false);
  EXPECT_THAT(Out({"models", "quire-19m"}), HasSubstr("19.4M"));
}

TEST_F(CommandTest, TheSmallModelFindsAHiddenFact) {
  std::string prompt = SampleText(6000);
  prompt.insert(prompt.find("\n\n", 2000) + 1,
                "\nThe secret code of the {blue lantern} is 48213.\n");
  prompt +=
      "\nQuestion: what is the secret code of the {blue lantern}? Answer: the secret "
      "code of the {blue lantern} is ";
  EXPECT_EQ(Out({"generate", "--file", "-", "--max-tokens", "5", "--quiet"}, prompt),
            "48213\n");
}

}  // namespace
}  // namespace quire::e2e

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/e2e/service.h"
#include "tests/support/temp_path.h"

// `quire calibrate` and `quire top` against the real server, with the small model.
namespace quire::e2e {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;
using testing::HasSubstr;

std::string ReadFile(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return std::string(std::istreambuf_iterator<char>(file), {});
}

class CalibrateTest : public testing::Test {
 protected:
  CalibrateTest() {
    fs::create_directories(folder_);
    // Of some 1,000 tokens each.
    for (size_t i = 0; i < 3; ++i) {
      std::ofstream(folder_ / absl::StrCat("part", i, ".txt"), std::ios::binary)
          << SampleText((i + 1) * 4500).substr(i == 0 ? 0 : i * 4500 + 100);
    }
    std::ofstream(folder_ / "picture.txt", std::ios::binary) << std::string(9, '\0');
  }
  ~CalibrateTest() override { fs::remove_all(root_); }

  std::vector<std::string> Arguments() const {
    return {"calibrate",   folder_.string(),
            "--out",       out_.string(),
            "--attention",  // AUTO reads all densely on a CPU without AVX512-BF16
            "refined",     "--min-sparse-tokens",
            "300",         "--eps",
            "0.04,0.5",    "--refine",
            "0",           "--agreement",
            "0.9",         "--json"};
  }
  size_t Lines() const {
    const std::string state = ReadFile(out_ / "state.jsonl");
    return static_cast<size_t>(std::count(state.begin(), state.end(), '\n'));
  }

  const fs::path root_ = TempPath("e2e_calibrate");
  const fs::path folder_ = root_ / "docs";
  const fs::path out_ = root_ / "out";
  Server server_{{ModelFolder("quire-19m")}};
};

TEST_F(CalibrateTest, FindsAnEpsThatTheServerTakesAndGoesOnAfterAKill) {
  ASSERT_TRUE(server_.ready()) << server_.log();
  // Killed while it works, wherever it is then.
  const auto killed = StartQuire(server_, Arguments());
  ASSERT_TRUE(WaitUntil([&] { return Lines() >= 1; }));
  killed->Signal(SIGKILL);
  EXPECT_EQ(killed->Wait().exit_code, 1000 + SIGKILL);
  const std::string before = ReadFile(out_ / "state.jsonl");

  const ProcessResult result = RunQuire(server_, Arguments());
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(Lines(), 3u * 2u);
  EXPECT_EQ(ReadFile(out_ / "state.jsonl").substr(0, before.rfind('\n') + 1),
            before.substr(0, before.rfind('\n') + 1));
  EXPECT_THAT(result.err, HasSubstr("skipped picture.txt: binary: byte 0 is zero"));

  const Json json = Json::parse(result.out);
  ASSERT_EQ(json.at("measured").size(), 2u);
  const Json& fine = json.at("measured")[0];
  const Json& coarse = json.at("measured")[1];
  EXPECT_GT(fine.at("agreement").at("value"), 0.95);
  EXPECT_LT(coarse.at("agreement").at("value"), fine.at("agreement").at("value"));
  EXPECT_GT(coarse.at("drift").at("value"), fine.at("drift").at("value"));
  EXPECT_LT(coarse.at("density"), fine.at("density"));
  EXPECT_EQ(json.at("config").at("attention_eps"), 0.04);

  // The fragment is a configuration.
  const ProcessResult checked =
      Process({ServerBinary(), "--model", ModelFolder("quire-19m"), "--config",
               (out_ / "config.json").string(), "--check-config"})
          .Wait();
  ASSERT_EQ(checked.exit_code, 0) << checked.err;
  const Json options = Json::parse(checked.out);
  EXPECT_EQ(options.at("attention_mode"), "refined");
  EXPECT_EQ(options.at("attention_eps"), 0.04);
  EXPECT_EQ(options.at("attention_min_sparse_tokens"), 300);
  EXPECT_EQ(options.at("attention_max_error"),
            json.at("config").at("attention_max_error"));
  EXPECT_THAT(ReadFile(out_ / "report.html"), HasSubstr("part2.txt"));

  // What was read is what top shows as saved or lost.
  const ProcessResult top = RunQuire(server_, {"top", "--json"});
  ASSERT_EQ(top.exit_code, 0) << top.err;
  const Json load = Json::parse(top.out).at("models").at(0);
  EXPECT_EQ(load.at("model"), "quire-19m");
  EXPECT_GT(load.at("dense_attention_macs"), 1e9);
  EXPECT_LT(load.at("attention_macs"), load.at("dense_attention_macs"));
  EXPECT_THAT(RunQuire(server_, {"top"}).out, HasSubstr("of attention's work"));
}

TEST_F(CalibrateTest, TheDefaultReadsShortDocumentsDenselyAndSaysSo) {
  ASSERT_TRUE(server_.ready()) << server_.log();
  const ProcessResult result =
      RunQuire(server_, {"calibrate", folder_.string(), "--out", out_.string()});
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_THAT(result.err, HasSubstr("begins beyond 4,096 tokens (min_sparse_tokens)"));
}

}  // namespace
}  // namespace quire::e2e

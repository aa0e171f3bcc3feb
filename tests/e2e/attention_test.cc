#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/e2e/service.h"

// A story of some 3,000 tokens, read in every way that a request may ask for.
namespace quire::e2e {
namespace {

using Json = nlohmann::json;
using testing::HasSubstr;

constexpr size_t kStoryBytes = 12'000;

class AttentionTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    // Chunks of a size that does not depend on how fast this machine is: bits do.
    server_ =
        std::make_unique<Server>(std::vector<std::string>{ModelFolder("quire-19m")},
                                 std::vector<std::string>{"--attention-max-error", "0.9",
                                                          "--max-step-seconds", "0"});
    ASSERT_TRUE(server_->ready()) << server_->log();
  }
  static void TearDownTestSuite() {
    EXPECT_EQ(server_->Stop(), 0) << server_->log();
    server_.reset();
  }

  static Json Run(std::vector<std::string> arguments) {
    arguments.push_back("--json");
    const ProcessResult quire = RunQuire(*server_, arguments, SampleText(kStoryBytes));
    EXPECT_EQ(quire.exit_code, 0) << quire.err;
    return Json::parse(quire.out);
  }
  static Json Score(const std::string& mode, std::vector<std::string> more = {}) {
    more.insert(more.begin(), {"score", "-", "--attention", mode});
    return Run(std::move(more));
  }

  // Null: AUTO never is, as on a CPU without AVX512-BF16.
  static Json AutoSparseFrom() {
    const ProcessResult models = RunQuire(*server_, {"models", "--json"});
    EXPECT_EQ(models.exit_code, 0) << models.err;
    const Json model = Json::parse(models.out).at("models").at(0);
    EXPECT_EQ(model.at("auto_sparse_from").is_number(),
              model.at("compute_type") == "bfloat16");
    return model.at("auto_sparse_from");
  }

  static inline std::unique_ptr<Server> server_;
};

double Sum(const Json& receipt, const std::string& key) {
  return receipt.at("prefill").at(key).get<double>() +
         receipt.at("decode").at(key).get<double>();
}

TEST_F(AttentionTest, AutoBelowItsThresholdIsDenseBitForBit) {
  const Json dense = Score("dense", {"--per-token"});
  const Json automatic = Score("auto", {"--per-token"});
  EXPECT_EQ(automatic.at("tokens"), dense.at("tokens"));
  EXPECT_EQ(automatic.at("receipt").at("density"), 1.0);
  const bool pays = AutoSparseFrom().is_number();
  EXPECT_THAT(automatic.at("receipt").at("note").get<std::string>(),
              HasSubstr(pays ? "none sees as many as min_sparse_tokens, 4096"
                             : "AUTO is dense on this server"));
}

TEST_F(AttentionTest, AutoBeyondItsThresholdIsRefinedWhereThatIsFaster) {
  const Json receipt = Score("auto", {"--min-sparse-tokens", "1000"}).at("receipt");
  EXPECT_EQ(receipt.at("mode"), "AUTO");
  if (AutoSparseFrom().is_number()) {
    EXPECT_LT(receipt.at("density").get<double>(), 0.6);
    EXPECT_EQ(receipt.at("note"), "");
  } else {
    EXPECT_EQ(receipt.at("density"), 1.0);
    EXPECT_THAT(receipt.at("note").get<std::string>(),
                HasSubstr("AUTO is dense on this server, where REFINED takes longer"));
  }
}

TEST_F(AttentionTest, RefinedReadsFewKeysAndErrsLittle) {
  const double dense = Score("dense").at("perplexity").get<double>();
  const Json refined = Score("refined");
  EXPECT_NEAR(refined.at("perplexity").get<double>() / dense, 1, 0.01);
  const Json& receipt = refined.at("receipt");
  EXPECT_EQ(receipt.at("mode"), "REFINED");
  EXPECT_EQ(receipt.at("note"), "");
  EXPECT_LT(receipt.at("density").get<double>(), 0.4);
  EXPECT_GT(receipt.at("coverage").get<double>(), 0.5);
  EXPECT_GT(receipt.at("audited_tokens").get<int64_t>(), 0);
  EXPECT_GT(receipt.at("audited_error").get<double>(), 0);
  EXPECT_LT(receipt.at("audited_error").get<double>(), 0.15);
  // A smaller eps reads more and errs less.
  const Json finer = Score("refined", {"--eps", "0.01"}).at("receipt");
  EXPECT_GT(finer.at("density").get<double>(), receipt.at("density").get<double>());
  EXPECT_LT(finer.at("audited_error").get<double>(),
            receipt.at("audited_error").get<double>());
}

TEST_F(AttentionTest, AnErrorThatIsNotAllowedMakesTheRequestDense) {
  const Json receipt = Score("refined", {"--max-error", "0"}).at("receipt");
  EXPECT_TRUE(receipt.at("fell_back").get<bool>());
  EXPECT_EQ(receipt.at("eps_lowered"), 3);
  EXPECT_EQ(receipt.at("eps"), 0.005);
  EXPECT_GT(server_->Metric("quire_dense_fallback_total{reason=\"max_error\"}"), 0);
}

TEST_F(AttentionTest, FaithfulIsReadChunkByChunkOrAsAWhole) {
  for (const std::vector<std::string>& how :
       std::vector<std::vector<std::string>>{{}, {"--whole-prompt"}}) {
    const Json receipt = Score("faithful", how).at("receipt");
    EXPECT_EQ(receipt.at("mode"), "FAITHFUL");
    EXPECT_LT(receipt.at("density").get<double>(), 0.9);
    EXPECT_GT(receipt.at("prefill").at("statistics_macs").get<int64_t>(), 0);
  }
}

TEST_F(AttentionTest, CompactGivesMemoryBackAndStillAnswers) {
  const Json answer = Run({"generate", "--file", "-", "--attention", "refined",
                           "--compact", "--max-tokens", "8", "--ignore-eos"});
  EXPECT_EQ(answer.at("usage").at("generated_tokens"), 8);
  const Json& receipt = answer.at("receipt");
  EXPECT_GT(receipt.at("kv_bytes_dropped").get<int64_t>(), 0);
  EXPECT_GT(receipt.at("decode").at("dense_columns").get<int64_t>(), 0);
  EXPECT_EQ(server_->Metric("quire_kv_cache_usage_ratio{model=\"quire-19m\"}"), 0);
}

TEST_F(AttentionTest, MetricsGrowByTheReceipt) {
  const auto flops = [&] {
    double sum = 0;
    for (const char* phase : {"prefill", "decode"}) {
      sum += server_->Metric(absl::StrCat(
          "quire_attention_flops_total{mode=\"refined\",phase=\"", phase, "\"}"));
    }
    return sum;
  };
  const double before = flops();
  const Json receipt = Run({"generate", "--file", "-", "--attention", "refined",
                            "--max-tokens", "4", "--ignore-eos"})
                           .at("receipt");
  const double macs = Sum(receipt, "attention_macs") + Sum(receipt, "selection_macs") +
                      Sum(receipt, "statistics_macs") + Sum(receipt, "audit_macs");
  EXPECT_DOUBLE_EQ(flops() - before, 2 * macs);
}

TEST_F(AttentionTest, ImportanceIsOfEveryTokenAndSentence) {
  const Json score = Score("refined", {"--importance"});
  const auto tokens = score.at("scored_tokens").get<size_t>() + 1;
  EXPECT_EQ(score.at("importance").size(), tokens);
  EXPECT_EQ(score.at("importance").back(), 0.0);
  double sum = 0;
  for (size_t i = 1; i < tokens; ++i) sum += score.at("importance")[i].get<double>();
  // What is expected is 1, beginning and end alike.
  EXPECT_NEAR(sum / static_cast<double>(tokens), 1, 0.4);
  EXPECT_GT(score.at("sentences").size(), 100u);
}

}  // namespace
}  // namespace quire::e2e

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "tests/e2e/service.h"
#include "tests/support/sanitizer.h"

// The default model's summaries, from a file to the terminal.
namespace quire::e2e {
namespace {

using Json = nlohmann::json;
using testing::HasSubstr;
using testing::StartsWith;

constexpr size_t kDocumentBytes = 6000;  // about 1,400 tokens

class SummarizeTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    if (kSanitized) return;
    server_ = std::make_unique<Server>(
        std::vector<std::string>{ModelFolder("quire-135m")},
        std::vector<std::string>{"--kv-cache-bytes", "200000000"});
    ASSERT_TRUE(server_->ready()) << server_->log();
  }
  static void TearDownTestSuite() {
    if (server_ == nullptr) return;
    EXPECT_EQ(server_->Stop(), 0) << server_->log();
    server_.reset();
  }
  void SetUp() override {
    if (kSanitized) GTEST_SKIP() << "the 135M model is far too slow with a sanitizer";
  }

  const std::string text_ = SampleText(kDocumentBytes);
  const TemporaryFile file_{text_};
  static inline std::unique_ptr<Server> server_;
};

TEST_F(SummarizeTest, OfAFileIsTextOnStandardOutput) {
  const ProcessResult quire =
      RunQuire(*server_, {"summarize", file_.path(), "--max-tokens", "24"});
  EXPECT_EQ(quire.exit_code, 0) << quire.err;
  EXPECT_GT(quire.out.size(), 40u);
  EXPECT_EQ(quire.out.back(), '\n');
  EXPECT_THAT(quire.err, HasSubstr("the answer was cut at its longest"));
  EXPECT_THAT(quire.err, HasSubstr("read 1,"));
  EXPECT_THAT(quire.err, HasSubstr("wrote 24 in "));
}

TEST_F(SummarizeTest, AsJsonHasEveryField) {
  const ProcessResult quire =
      RunQuire(*server_,
               {"summarize", "-", "--json", "--words", "50", "--max-tokens", "8"}, text_);
  ASSERT_EQ(quire.exit_code, 0) << quire.err;
  const Json json = Json::parse(quire.out);
  EXPECT_GT(json.at("summary").get<std::string>().size(), 10u);
  EXPECT_EQ(json.at("strategy"), "ABSTRACTIVE");
  EXPECT_EQ(json.at("model"), "quire-135m");
  EXPECT_EQ(json.at("finish_reason"), "LENGTH");
  EXPECT_EQ(json.at("passes"), 1);
  const Json whole = {{"begin", 0}, {"end", text_.size()}};
  EXPECT_EQ(json.at("parts"), Json::array({whole}));
  EXPECT_EQ(json.at("sources"), Json::array({whole}));
  const int64_t document = json.at("document_tokens");
  EXPECT_GT(document, 1200);
  EXPECT_LT(document, 1600);
  const Json& usage = json.at("usage");
  EXPECT_GT(usage.at("prompt_tokens").get<int64_t>(), document);
  EXPECT_LT(usage.at("prompt_tokens").get<int64_t>(), document + 60);
  // Another test may have asked about the same document before.
  EXPECT_GE(usage.at("cached_tokens").get<int64_t>(), 0);
  EXPECT_LT(usage.at("cached_tokens").get<int64_t>(),
            usage.at("prompt_tokens").get<int64_t>());
  EXPECT_EQ(usage.at("generated_tokens"), 8);
  const Json& timings = json.at("timings");
  const double prefill = timings.at("prefill_seconds");
  const double first = timings.at("time_to_first_token_seconds");
  EXPECT_GT(prefill, 0);
  EXPECT_GE(first, prefill);
  EXPECT_GE(timings.at("total_seconds").get<double>(), first);
  EXPECT_TRUE(json.contains("seed"));
  EXPECT_TRUE(json.contains("request_id"));
}

// Sentences, in the order of the document, with nothing but blanks between them.
void ExpectMadeOf(const std::string& summary, const std::string& text,
                  const Json& sources) {
  size_t at = 0;
  int64_t last_end = 0;
  for (const Json& source : sources) {
    const int64_t begin = source.at("begin"), end = source.at("end");
    ASSERT_LE(last_end, begin);
    ASSERT_LT(begin, end);
    ASSERT_LE(end, static_cast<int64_t>(text.size()));
    at = summary.find_first_not_of(" \n", at);
    const std::string sentence =
        text.substr(static_cast<size_t>(begin), static_cast<size_t>(end - begin));
    ASSERT_THAT(summary.substr(std::min(at, summary.size())), StartsWith(sentence));
    at += sentence.size();
    last_end = end;
  }
  EXPECT_EQ(summary.find_first_not_of(" \n", at), std::string::npos);
}

TEST_F(SummarizeTest, ExtractiveIsMadeOfSentencesOfTheDocument) {
  const ProcessResult quire = RunQuire(
      *server_,
      {"summarize", file_.path(), "--json", "--words", "60", "--strategy", "extractive"});
  ASSERT_EQ(quire.exit_code, 0) << quire.err;
  const Json json = Json::parse(quire.out);
  EXPECT_EQ(json.at("strategy"), "EXTRACTIVE");
  EXPECT_GE(json.at("sources").size(), 2u);
  EXPECT_EQ(json.at("usage").at("generated_tokens"), 0);
  ExpectMadeOf(json.at("summary"), text_, json.at("sources"));
}

}  // namespace
}  // namespace quire::e2e

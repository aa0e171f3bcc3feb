#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tests/e2e/rpc.h"

// What must come out the same whichever way it is asked for, over the service. float32,
// so that only the order of additions differs.
namespace quire::e2e {
namespace {

using Json = nlohmann::json;

constexpr int kAnswerTokens = 24;
// What the cache holds is the window: smaller than the model's own, so that a text beyond
// it is scored within seconds.
constexpr int32_t kContext = 5120;
constexpr char kKvCacheBytes[] = "78643200";  // 15 KiB a token
constexpr double kTolerance = 1e-3;           // of one token's logprob

class ConsistencyTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    server_ = std::make_unique<Server>(
        std::vector<std::string>{ModelFolder("quire-19m")},
        std::vector<std::string>{"--compute", "float32", "--kv-cache-bytes",
                                 kKvCacheBytes});
    ASSERT_TRUE(server_->ready()) << server_->log();
  }
  static void TearDownTestSuite() {
    EXPECT_EQ(server_->Stop(), 0) << server_->log();
    server_.reset();
  }

  RawClient client_{server_->grpc()};
  static inline std::unique_ptr<Server> server_;
};

v1::TokenIds Tokenize(RawClient& client, const std::string& text) {
  v1::TokenizeRequest request;
  request.set_text(text);
  v1::TokenizeResponse response;
  grpc::ClientContext context;
  const grpc::Status status = client.inference().Tokenize(&context, request, &response);
  EXPECT_TRUE(status.ok()) << status.error_message();
  v1::TokenIds ids;
  *ids.mutable_ids() = response.token_ids();
  return ids;
}

// All blocks of a score put together.
struct Scores {
  std::vector<float> logprobs;
  std::vector<int64_t> byte_offsets;
  int largest_block = 0;
  int blocks = 0;
  v1::ScoreFinal final;
};

Scores Collect(const StreamResult<v1::ScoreResponse>& result) {
  EXPECT_TRUE(result.status.ok()) << result.status.error_message();
  Scores scores;
  for (const v1::ScoreResponse& event : result.events) {
    if (event.has_final()) scores.final = event.final();
    if (!event.has_scores()) continue;
    const v1::TokenScores& block = event.scores();
    EXPECT_EQ(block.first_token(), static_cast<int64_t>(scores.logprobs.size()));
    EXPECT_EQ(block.token_ids_size(), block.logprobs_size());
    scores.logprobs.insert(scores.logprobs.end(), block.logprobs().begin(),
                           block.logprobs().end());
    scores.byte_offsets.insert(scores.byte_offsets.end(), block.byte_offsets().begin(),
                               block.byte_offsets().end());
    scores.largest_block = std::max(scores.largest_block, block.token_ids_size());
    ++scores.blocks;
  }
  return scores;
}

double SumOfLogprobs(const Scores& scores) {
  double sum = 0;
  for (const float logprob : scores.logprobs) sum += std::isnan(logprob) ? 0 : logprob;
  return sum;
}

v1::ScoreRequest ScoreOf(const v1::TokenIds& ids) {
  v1::ScoreRequest request;
  *request.mutable_input()->mutable_token_ids() = ids;
  return request;
}

v1::ScoreRequest ScoreOf(const std::string& text) {
  v1::ScoreRequest request;
  request.mutable_input()->set_text(text);
  return request;
}

TEST_F(ConsistencyTest, AnAnswersLogprobsAreWhatScoringItAdds) {
  v1::TokenIds ids = Tokenize(client_, SampleText(3000));
  v1::GenerateRequest request;
  *request.mutable_input()->mutable_token_ids() = ids;
  request.set_max_new_tokens(kAnswerTokens);
  request.set_ignore_eos(true);
  request.set_logprobs(true);
  request.mutable_sampling()->set_temperature(0.8f);
  request.mutable_sampling()->set_seed(3);
  const auto answer = Generate(client_, request);
  ASSERT_TRUE(answer.status.ok()) << answer.status.error_message();

  const Scores before = Collect(Score(client_, ScoreOf(ids)));
  double sum = 0;
  for (const v1::GenerateResponse& event : answer.events) {
    for (const v1::GeneratedToken& token : event.text().tokens()) {
      sum += token.logprob();
      ids.add_ids(token.token_id());
    }
  }
  ASSERT_EQ(ids.ids_size(), before.final.scored_tokens() + 1 + kAnswerTokens);
  const Scores after = Collect(Score(client_, ScoreOf(ids)));
  EXPECT_LT(sum, -1);  // it was drawn, not the most probable
  EXPECT_NEAR(after.final.logprob() - before.final.logprob(), sum,
              kAnswerTokens * kTolerance);
}

TEST_F(ConsistencyTest, ChunksOfThePromptChangeNothing) {
  Server other({ModelFolder("quire-19m")},
               {"--compute", "float32", "--chunk-tokens", "37", "--max-running", "37"});
  ASSERT_TRUE(other.ready()) << other.log();
  RawClient other_client(other.grpc());
  const v1::ScoreRequest request = ScoreOf(SampleText(4000));
  const Scores one = Collect(Score(client_, request));
  const Scores two = Collect(Score(other_client, request));
  ASSERT_GT(one.logprobs.size(), 900u);
  EXPECT_THAT(two.logprobs, testing::Pointwise(testing::NanSensitiveFloatNear(kTolerance),
                                               one.logprobs));
  EXPECT_EQ(other.Stop(), 0) << other.log();
}

TEST_F(ConsistencyTest, ATextBeyondTheWindowIsScoredInBlocks) {
  const std::string text = SampleText();
  const Scores scores = Collect(Score(client_, ScoreOf(text)));
  EXPECT_GT(scores.logprobs.size(), static_cast<size_t>(kContext));
  EXPECT_LE(scores.largest_block, 4096);
  EXPECT_GE(scores.blocks, 2);
  EXPECT_EQ(scores.final.windows(), 2);
  EXPECT_EQ(scores.final.overlap_tokens(), kContext / 4);
  EXPECT_TRUE(std::isnan(scores.logprobs[0]));  // nothing stands before it
  EXPECT_EQ(scores.final.scored_tokens(),
            static_cast<int64_t>(scores.logprobs.size()) - 1);
  EXPECT_NEAR(scores.final.logprob(), SumOfLogprobs(scores), 0.1);
  EXPECT_NEAR(scores.final.perplexity(),
              std::exp(-scores.final.logprob() /
                       static_cast<double>(scores.final.scored_tokens())),
              1e-6);
  EXPECT_TRUE(std::is_sorted(scores.byte_offsets.begin(), scores.byte_offsets.end()));
  EXPECT_LT(scores.byte_offsets.back(), static_cast<int64_t>(text.size()));
}

// The events of a batch with one text in pieces of `bytes`, cut wherever that falls.
Scores ScoreInPieces(RawClient& client, const std::string& text, size_t bytes) {
  grpc::ClientContext context;
  const auto stream = client.inference().ScoreBatch(&context);
  for (size_t begin = 0; begin < text.size(); begin += bytes) {
    v1::ScoreBatchRequest piece;
    piece.set_id("story");
    piece.set_text(text.substr(begin, bytes));
    piece.set_more(begin + bytes < text.size());
    EXPECT_TRUE(stream->Write(piece));
  }
  stream->WritesDone();
  StreamResult<v1::ScoreResponse> result;
  v1::ScoreBatchResponse event;
  while (stream->Read(&event)) {
    EXPECT_EQ(event.id(), "story");
    EXPECT_FALSE(event.has_error()) << event.error().message();
    v1::ScoreResponse& response = result.events.emplace_back();
    if (event.has_scores()) *response.mutable_scores() = event.scores();
    if (event.has_final()) *response.mutable_final() = event.final();
  }
  result.status = stream->Finish();
  return Collect(result);
}

TEST_F(ConsistencyTest, ATextInPiecesScoresAsInOne) {
  const std::string text = SampleText(2000);
  ASSERT_NE(text.find("\u00e8"), std::string::npos);  // some cuts are inside a character
  const Scores whole = Collect(Score(client_, ScoreOf(text)));
  const Scores pieces = ScoreInPieces(client_, text, 1);
  EXPECT_EQ(pieces.byte_offsets, whole.byte_offsets);
  EXPECT_THAT(
      pieces.logprobs,
      testing::Pointwise(testing::NanSensitiveFloatNear(kTolerance), whole.logprobs));
}

TEST_F(ConsistencyTest, TheCommandPrintsTheSameScores) {
  const std::string text = SampleText(2000);
  const Scores raw = Collect(Score(client_, ScoreOf(text)));
  const ProcessResult quire = RunQuire(*server_, {"score", "-", "--json"}, text);
  ASSERT_EQ(quire.exit_code, 0) << quire.err;
  const Json json = Json::parse(quire.out);
  EXPECT_NEAR(json.at("logprob").get<double>(), raw.final.logprob(), 0.1);
  EXPECT_EQ(json.at("scored_tokens"), raw.final.scored_tokens());
  EXPECT_EQ(json.at("windows"), 1);
}

}  // namespace
}  // namespace quire::e2e

#include <gtest/gtest.h>

#include <cmath>

#include "ATen/TensorOperators.h"
#include "ATen/ops/cat.h"
#include "ATen/ops/logsumexp.h"
#include "c10/core/InferenceMode.h"
#include "core/model/decoder.h"
#include "core/weights/model_files.h"
#include "tests/core/model/golden_file.h"

namespace quire {
namespace {

using testing::GoldenFile;

constexpr double kTolerance = 2e-4;

// A decoder in float32 with a cache of its own; blocks are handed out backwards.
class Session {
 public:
  explicit Session(const std::string& folder) : files_(OpenModelFiles(folder).value()) {
    decoder_ = Decoder::Load(files_.config, *files_.weights, at::kFloat).value();
    cache_ =
        std::make_unique<KvCache>(files_.config, KvGeometry{kBlocks, 16}, at::kFloat);
    for (int32_t i = 0; i < kBlocks; ++i) blocks_.push_back(BlockId{kBlocks - 1 - i});
  }
  // Logits of the last `rows` tokens.
  at::Tensor Run(const std::vector<TokenId>& tokens, Position begin, int64_t rows) {
    SequenceAttention s = {
        .rows = {0, static_cast<int64_t>(tokens.size()), begin, blocks_},
        .state = &state_};
    const at::Tensor hidden = decoder_->Forward(tokens, absl::MakeSpan(&s, 1), *cache_);
    return decoder_->Logits(hidden.narrow(0, hidden.size(0) - rows, rows).contiguous());
  }
  std::vector<TokenId> Greedy(std::vector<TokenId> prompt, size_t count) {
    std::vector<TokenId> answer;
    Position begin = 0;
    std::vector<TokenId> next = prompt;
    while (answer.size() < count) {
      const auto id = static_cast<TokenId>(Run(next, begin, 1).argmax().item<int64_t>());
      begin += static_cast<Position>(next.size());
      answer.push_back(id);
      next = {id};
    }
    return answer;
  }

 private:
  static constexpr int32_t kBlocks = 64;
  ModelFiles files_;
  std::unique_ptr<Decoder> decoder_;
  std::unique_ptr<KvCache> cache_;
  std::vector<BlockId> blocks_;
  SequenceState state_;
};

double LargestDifference(const at::Tensor& logits, const std::vector<float>& wanted) {
  EXPECT_EQ(logits.numel(), static_cast<int64_t>(wanted.size()));
  const at::Tensor flat = logits.contiguous();
  double largest = 0;
  for (size_t i = 0; i < wanted.size(); ++i) {
    const double d = std::abs(flat.const_data_ptr<float>()[i] - wanted[i]);
    largest = d <= largest ? largest : d;  // a NaN becomes the largest
  }
  return largest;
}

class TinyModelTest : public ::testing::TestWithParam<const char*> {
 protected:
  const c10::InferenceMode inference_;
  const std::string folder_ = std::string(QUIRE_TESTDATA_DIR "/models/") + GetParam();
};

TEST_P(TinyModelTest, LogitsEqualTransformers) {
  const GoldenFile golden(folder_ + "/golden.safetensors");
  const std::vector<TokenId> ids = golden.Ids("input_ids");
  const at::Tensor logits =
      Session(folder_).Run(ids, 0, static_cast<int64_t>(ids.size()));
  EXPECT_LT(LargestDifference(logits, golden.Floats("logits")), kTolerance);
}

TEST_P(TinyModelTest, ChunkedPrefillEqualsTransformers) {
  const GoldenFile golden(folder_ + "/golden.safetensors");
  const std::vector<TokenId> ids = golden.Ids("input_ids");
  Session session(folder_);
  std::vector<at::Tensor> parts;
  Position begin = 0;
  for (const size_t size :
       {1, 17, 31, 47}) {  // 96 in all; within, at and across blocks of 16
    const std::vector<TokenId> part(ids.begin() + begin, ids.begin() + begin + size);
    parts.push_back(session.Run(part, begin, static_cast<int64_t>(size)));
    begin += static_cast<Position>(size);
  }
  EXPECT_LT(LargestDifference(at::cat(parts), golden.Floats("logits")), kTolerance);
}

TEST_P(TinyModelTest, GreedyTokensEqualTransformers) {
  const GoldenFile golden(folder_ + "/golden.safetensors");
  const std::vector<TokenId> wanted = golden.Ids("greedy");
  EXPECT_EQ(Session(folder_).Greedy(golden.Ids("input_ids"), wanted.size()), wanted);
}

INSTANTIATE_TEST_SUITE_P(Families, TinyModelTest,
                         ::testing::Values("llama", "llama-untied", "llama-sharded",
                                           "llama-biases", "llama-linear", "llama-llama3",
                                           "llama-yarn", "llama-yarn-attention-factor",
                                           "llama-fp16", "llama-bf16", "llama-lora",
                                           "llama-rslora", "llama-gguf", "mistral",
                                           "qwen2", "qwen3"),
                         [](const auto& info) {
                           std::string name = info.param;
                           for (char& c : name) c = c == '-' ? '_' : c;
                           return name;
                         });

class BundledModelTest : public ::testing::TestWithParam<const char*> {
 protected:
  const c10::InferenceMode inference_;
  const std::string folder_ = std::string(QUIRE_MODELS_DIR "/") + GetParam();
  const GoldenFile golden_{std::string(QUIRE_TESTDATA_DIR "/bundled/") + GetParam() +
                           ".safetensors"};
};

TEST_P(BundledModelTest, LogitsAndGreedyTokensEqualTransformers) {
  Session session(folder_);
  const std::vector<TokenId> ids = golden_.Ids("input_ids");
  const std::vector<float> positions = golden_.Floats("positions");
  const auto rows = static_cast<int64_t>(positions.size());
  const at::Tensor logits = session.Run(ids, 0, rows);
  const std::vector<TokenId> vocab_ids = golden_.Ids("vocab_ids");
  const std::vector<float> wanted = golden_.Floats("logits"),
                           sums = golden_.Floats("logsumexp");
  const at::Tensor log_sums = at::logsumexp(logits, {1});
  for (int64_t r = 0; r < rows; ++r) {
    const float* const row = logits.const_data_ptr<float>() + r * logits.size(1);
    EXPECT_NEAR(log_sums.const_data_ptr<float>()[r], sums[r], kTolerance);
    for (size_t i = 0; i < vocab_ids.size(); ++i) {
      ASSERT_NEAR(row[vocab_ids[i]], wanted[r * vocab_ids.size() + i], kTolerance)
          << "position " << positions[r] << " id " << vocab_ids[i];
    }
  }
  const std::vector<TokenId> greedy = golden_.Ids("greedy");
  EXPECT_EQ(session.Greedy(ids, greedy.size()), greedy);
}

INSTANTIATE_TEST_SUITE_P(Models, BundledModelTest,
                         ::testing::Values("quire-19m", "quire-135m"),
                         [](const auto& info) {
                           return info.param == std::string("quire-19m") ? "quire_19m"
                                                                         : "quire_135m";
                         });

}  // namespace
}  // namespace quire

#include "core/runner/cuda_readout.h"

#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "ATen/ops/index_select.h"
#include "ATen/ops/tensor.h"
#include "c10/core/InferenceMode.h"
#include "c10/cuda/CUDAStream.h"
#include "core/runner/probe_cuda.h"
#include "core/runner/token_score.h"
#include "core/weights/model_files.h"

// What the device says of rows of a real model's logits against what the host says of the
// same logits.
namespace quire {
namespace {

constexpr int kVocab = 8192;
constexpr KvGeometry kGeometry = {.num_blocks = 100, .tokens_per_block = 64};
// Of sums of exponentials, in float32 there and here.
constexpr double kLogprobError = 1e-4;
// Of logits, where the order of sums is another, too.
constexpr double kOtherOrder = 0.02;

class CudaReadoutTest : public testing::Test {
 protected:
  void SetUp() override {
    const auto chosen = ChooseDevice({.kind = DeviceKind::kCuda}, ProbeCuda());
    if (!chosen.ok()) GTEST_SKIP() << chosen.status().message();
    const ModelFiles files = OpenModelFiles(QUIRE_MODELS_DIR "/quire-19m").value();
    const at::Device device(at::kCUDA, 0);
    decoder_ = CudaDecoder::Load(files.config, *files.weights, device).value();
    cache_ = std::make_unique<CudaKvCache>(files.config, kGeometry, device);
    blocks_.resize(kGeometry.num_blocks);
    for (int i = 0; i < kGeometry.num_blocks; ++i) blocks_[i] = BlockId{i};
  }

  // An item that asks for much in a way that depends on `i`; the history is a text's end.
  StepItem Asking(int i) const {
    StepItem item = {.ranks = i % 2 == 0};
    item.sampling = {
        .temperature = i % 3 == 0 ? 0 : 0.5f + 0.2f * static_cast<float>(i % 4),
        .top_k = i % 4 == 1 ? 40 : 0,
        .top_p = i % 5 < 3 ? 0.95f : 1,
        .min_p = i % 7 == 2 ? 0.05f : 0,
        .repetition_penalty = i % 2 == 0 ? 1 : 1.2f,
        .frequency_penalty = i % 6 == 0 ? 0.3f : 0,
        .no_repeat_ngram = i % 5 == 1 ? 2 : 0,
        .seed = static_cast<uint64_t>(17 * i)};
    item.sample_step = i;
    item.history = absl::MakeConstSpan(text_).last(static_cast<size_t>(i) % 60);
    item.top_logprobs = i % 3 == 1 ? 7 : 0;
    return item;
  }

  static void ExpectSame(const TokenScore& got, const TokenScore& want) {
    EXPECT_EQ(got.token, want.token);
    EXPECT_EQ(got.rank, want.rank);
    EXPECT_NEAR(got.logprob, want.logprob, kLogprobError);
    ASSERT_EQ(got.top.size(), want.top.size());
    for (size_t i = 0; i < got.top.size(); ++i) {
      EXPECT_EQ(got.top[i].token, want.top[i].token);
      EXPECT_NEAR(got.top[i].logprob, want.top[i].logprob, kLogprobError);
    }
  }

  // Reads the tokens, asks for a token after every row and for the score of another one,
  // and compares both with the host's. A step of single tokens has no targets here.
  void ReadAndCompare(const std::vector<TokenId>& tokens,
                      const std::vector<CudaSequence>& sequences) {
    const c10::InferenceMode inference;
    const CudaDecoder::Result result = decoder_->Forward(tokens, sequences, {}, *cache_);
    CudaReadout readout(*decoder_, result);
    const bool scores = !result.logits.defined();
    std::vector<StepItem> items;
    for (size_t i = 0; i < tokens.size(); ++i) {
      items.push_back(Asking(static_cast<int>(i)));
    }
    std::vector<int64_t> rows;  // of the logits, in the order of what is wanted
    for (size_t i = 0; i < tokens.size(); ++i) {
      rows.push_back(static_cast<int64_t>(i));
      readout.WantSample(rows.back(), items[i]);
      if (!scores) continue;
      rows.push_back(rows.back());
      readout.WantScore(rows.back(), items[i], tokens[i]);
    }
    readout.Launch();
    c10::cuda::getCurrentCUDAStream().synchronize();
    // Of as many rows, since that decides in which order logits are summed.
    const at::Tensor index = at::tensor(rows).to(result.hidden.device());
    const at::Tensor logits =
        (scores ? decoder_->Logits(at::index_select(result.hidden, 0, index))
                : result.logits)
            .cpu();
    for (size_t number = 0; number < rows.size(); ++number) {
      SCOPED_TRACE(testing::Message() << "row " << rows[number]);
      const StepItem& item = items[rows[number]];
      const absl::Span<const float> row(logits.const_data_ptr<float>() + number * kVocab,
                                        kVocab);
      const bool scored = scores && number % 2 == 1;
      const TokenId token =
          scored ? tokens[rows[number]]
                 : Sample(row, item.sampling, item.history, item.sample_step);
      const float log_sum = row[0] - Logprob(row, 0);
      ExpectSame(readout.Score(number),
                 ScoreToken(row, log_sum, token, item.ranks, item.top_logprobs));
    }
  }

  std::vector<TokenId> Text(int count) {
    text_.clear();
    for (int i = 0; i < count; ++i) text_.push_back((i * 7919 + i * i % 31) % kVocab);
    return text_;
  }

  std::unique_ptr<CudaDecoder> decoder_;
  std::unique_ptr<CudaKvCache> cache_;
  std::vector<BlockId> blocks_;
  std::vector<TokenId> text_;
};

TEST_F(CudaReadoutTest, RowsOfAPrompt) {
  ReadAndCompare(Text(256), {{.rows = {0, 256, 0, blocks_}}});
}

// The first step of a size is launched, the second captured, the others are a graph.
// Sequences have one text in the same blocks: all write the same there.
TEST_F(CudaReadoutTest, RowsThatDecode) {
  const std::vector<TokenId> text = Text(256);
  ReadAndCompare(text, {{.rows = {0, 256, 0, blocks_}}});
  for (const int64_t batch : {1, 5, 30}) {
    for (Position step = 0; step < 4; ++step) {
      SCOPED_TRACE(testing::Message() << batch << " sequences, step " << step);
      std::vector<CudaSequence> sequences;
      for (int64_t i = 0; i < batch; ++i) {
        sequences.push_back({.rows = {i, 1, 256 + step, blocks_},
                             .reading = CudaSequence::Reading::kDenseDecode});
      }
      const std::vector<TokenId> tokens(static_cast<size_t>(batch), text[step]);
      ReadAndCompare(tokens, sequences);
    }
  }
  EXPECT_EQ(decoder_->captured_graphs(), 3u);
}

// More than there are logits of at a time.
TEST_F(CudaReadoutTest, ManyRows) {
  const c10::InferenceMode inference;
  const std::vector<TokenId> text = Text(1300);
  const std::vector<CudaSequence> sequences = {{.rows = {0, 1300, 0, blocks_}}};
  const CudaDecoder::Result result = decoder_->Forward(text, sequences, {}, *cache_);
  const StepItem item = {.ranks = true, .top_logprobs = 3};
  StepItem drawn = item;
  drawn.sampling = {.temperature = 1, .min_p = 1};  // the best is left
  CudaReadout readout(*decoder_, result);
  for (int64_t i = 0; i < 1300; ++i) {
    if (i % 2 == 0) {
      readout.WantScore(i, item, text[i]);
    } else {
      readout.WantSample(i, drawn);
    }
  }
  readout.Launch();
  c10::cuda::getCurrentCUDAStream().synchronize();
  const at::Tensor logits = decoder_->Logits(result.hidden).cpu();
  for (size_t i = 0; i < 1300; ++i) {
    SCOPED_TRACE(testing::Message() << "row " << i);
    const TokenScore score = readout.Score(i);
    const absl::Span<const float> row(logits.const_data_ptr<float>() + i * kVocab,
                                      kVocab);
    EXPECT_NEAR(score.logprob, Logprob(row, score.token), kOtherOrder);
    ASSERT_EQ(score.top.size(), 3u);
    EXPECT_NEAR(score.top[2].logprob, Logprob(row, score.top[2].token), kOtherOrder);
    if (i % 2 == 0) {
      EXPECT_EQ(score.token, text[i]);
    } else {
      EXPECT_EQ(score.token, score.top[0].token);
      EXPECT_EQ(score.logprob, score.top[0].logprob);
      EXPECT_EQ(score.rank, 1);
    }
  }
}

}  // namespace
}  // namespace quire

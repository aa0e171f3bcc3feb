#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <vector>

#include "c10/core/InferenceMode.h"
#include "core/model/cuda_graphs.h"
#include "core/runner/cuda_model_runner.h"
#include "core/runner/probe_cuda.h"
#include "core/weights/model_files.h"

// Decode steps that run as CUDA graphs against the same steps launched one by one, over a
// real model.
namespace quire {
namespace {

constexpr int kVocab = 8192;
constexpr KvGeometry kGeometry = {.num_blocks = 400, .tokens_per_block = 64};

// Of logprobs, where one step has so many rows that its linear layers are cuBLAS's and
// the other has not.
constexpr double kMaxDifference = 0.5;

constexpr AttentionOptions kDense = {.mode = AttentionMode::kDense};
constexpr AttentionOptions kRefined = {.mode = AttentionMode::kRefined, .eps = 0.04f};

// A decoder with a cache of its own, and the runner over them.
struct Machine {
  Machine(const ModelFiles& files, bool graphs) {
    const c10::InferenceMode inference;
    const at::Device device(at::kCUDA, 0);
    auto loaded = CudaDecoder::Load(files.config, *files.weights, device).value();
    loaded->set_use_graphs(graphs);
    decoder = loaded.get();
    runner = std::make_unique<CudaModelRunner>(
        std::move(loaded), std::make_unique<CudaKvCache>(files.config, kGeometry, device),
        kGeometry);
  }
  std::vector<StepResult> Step(const StepInput& input) {
    auto results = runner->Step(input);
    EXPECT_TRUE(results.ok()) << results.status();
    if (!results.ok()) return std::vector<StepResult>(input.items.size());
    for (const StepResult& result : *results) EXPECT_TRUE(result.status.ok());
    return *std::move(results);
  }

  CudaDecoder* decoder;
  std::unique_ptr<CudaModelRunner> runner;
};

struct Sequence {
  std::vector<TokenId> tokens;
  std::vector<TokenId> targets;
  std::vector<BlockId> blocks;
  AttentionOptions attention;
  Position done = 0;

  Sequence(int seed, int count, int first_block, const AttentionOptions& attention)
      : attention(attention) {
    for (int i = 0; i <= count; ++i) {
      tokens.push_back((i * 7919 + i * i % 31 + seed) % kVocab);
    }
    targets.assign(tokens.begin() + 1, tokens.end());
    tokens.pop_back();
    // Not in order, so that positions and places differ.
    const int pages = count / 64 + 1;
    for (int i = 0; i < pages; ++i) {
      blocks.push_back(BlockId{first_block + pages - 1 - i});
    }
  }

  StepItem Item(int64_t id, size_t rows, bool scored) const {
    StepItem item = {.id = RequestId{static_cast<uint64_t>(id)},
                     .begin = done,
                     .tokens = absl::MakeConstSpan(tokens).subspan(done, rows),
                     .blocks = blocks,
                     .ranks = true,
                     .attention = attention};
    if (scored) item.targets = absl::MakeConstSpan(targets).subspan(done, rows);
    return item;
  }
};

void ReadPrompt(Machine& machine, Sequence& sequence, int rows) {
  sequence.done = 0;
  machine.Step({.items = {sequence.Item(0, static_cast<size_t>(rows), false)}});
  sequence.done = rows;
}

void ReadPrompts(Machine& machine, std::vector<Sequence>& sequences, int rows) {
  for (Sequence& sequence : sequences) ReadPrompt(machine, sequence, rows);
}

// The next token of the first `count` sequences.
std::vector<StepResult> DecodeFirst(Machine& machine, std::vector<Sequence>& sequences,
                                    size_t count) {
  StepInput input;
  for (size_t i = 0; i < count; ++i) {
    input.items.push_back(sequences[i].Item(static_cast<int64_t>(i), 1, true));
  }
  std::vector<StepResult> results = machine.Step(input);
  for (size_t i = 0; i < count; ++i) ++sequences[i].done;
  return results;
}

void ExpectSame(const std::vector<StepResult>& got, const std::vector<StepResult>& want) {
  ASSERT_EQ(got.size(), want.size());
  for (size_t i = 0; i < got.size(); ++i) {
    ASSERT_EQ(got[i].scores.size(), 1u);
    EXPECT_EQ(got[i].scores[0].logprob, want[i].scores.at(0).logprob) << i;
    EXPECT_EQ(got[i].scores[0].rank, want[i].scores.at(0).rank) << i;
    EXPECT_EQ(got[i].attention.work, want[i].attention.work) << i;
    EXPECT_EQ(got[i].attention.coverage, want[i].attention.coverage) << i;
  }
}

class CudaDecodeGraphTest : public testing::Test {
 protected:
  void SetUp() override {
    const auto chosen = ChooseDevice({.kind = DeviceKind::kCuda}, ProbeCuda());
    if (!chosen.ok()) GTEST_SKIP() << chosen.status().message();
    const ModelFiles files = OpenModelFiles(QUIRE_MODELS_DIR "/quire-19m").value();
    graphed_ = std::make_unique<Machine>(files, true);
    plain_ = std::make_unique<Machine>(files, false);
  }
  size_t captured() const { return graphed_->decoder->captured_graphs(); }

  std::unique_ptr<Machine> graphed_, plain_;
};

TEST_F(CudaDecodeGraphTest, TheBitsAreThoseOfSingleLaunches) {
  for (const AttentionOptions& attention : {kDense, kRefined}) {
    for (const size_t batch : {1, 2, 3, 4, 5, 8, 10, 16}) {
      SCOPED_TRACE(testing::Message()
                   << static_cast<int>(attention.mode) << " " << batch);
      std::vector<Sequence> sequences;
      for (size_t i = 0; i < batch; ++i) {
        const int number = static_cast<int>(i);
        sequences.push_back({number, 700 + 37 * number, 21 * number, attention});
      }
      std::vector<Sequence> again = sequences;
      ReadPrompts(*graphed_, sequences, 690);
      ReadPrompts(*plain_, again, 690);
      for (int step = 0; step < 6; ++step) {
        ExpectSame(DecodeFirst(*graphed_, sequences, batch),
                   DecodeFirst(*plain_, again, batch));
      }
    }
  }
  EXPECT_EQ(captured(), 10u);
  EXPECT_EQ(plain_->decoder->captured_graphs(), 0u);
}

// 200 tokens are more than three pages: each becomes far, and is indexed, in its turn.
TEST_F(CudaDecodeGraphTest, PagesBecomeCompleteBetweenSteps) {
  std::vector<Sequence> sequences = {{1, 800, 0, kRefined}};
  std::vector<Sequence> again = sequences;
  ReadPrompts(*graphed_, sequences, 600);
  ReadPrompts(*plain_, again, 600);
  int64_t indexed = 0;
  for (int step = 0; step < 200; ++step) {
    const auto results = DecodeFirst(*graphed_, sequences, 1);
    ExpectSame(results, DecodeFirst(*plain_, again, 1));
    indexed += results[0].attention.work.statistics_bytes > 0 ? 1 : 0;
  }
  EXPECT_EQ(captured(), 1u);
  EXPECT_GE(indexed, 3);
}

TEST_F(CudaDecodeGraphTest, BatchesGrowAndShrink) {
  std::vector<Sequence> sequences;
  for (int i = 0; i < 9; ++i) {
    sequences.push_back({i, 700 + 50 * i, 30 * i, i % 3 == 1 ? kRefined : kDense});
  }
  std::vector<Sequence> again = sequences;
  ReadPrompts(*graphed_, sequences, 600);
  ReadPrompts(*plain_, again, 600);
  for (int round = 0; round < 3; ++round) {
    for (const size_t batch : {1, 2, 3, 4, 5, 6, 7, 8, 9, 7, 5, 3, 1}) {
      ExpectSame(DecodeFirst(*graphed_, sequences, batch),
                 DecodeFirst(*plain_, again, batch));
    }
  }
  EXPECT_GE(captured(), 4u);
}

// The first time steps are launched or captured, the second time all are replayed.
TEST_F(CudaDecodeGraphTest, TheSameStepsGiveTheSameBits) {
  std::vector<Sequence> sequences;
  for (int i = 0; i < 7; ++i) {
    sequences.push_back({i, 700 + 50 * i, 30 * i, i % 2 == 1 ? kRefined : kDense});
  }
  std::vector<std::vector<StepResult>> first;
  for (int round = 0; round < 3; ++round) {
    ReadPrompts(*graphed_, sequences, 640);
    for (int step = 0; step < 20; ++step) {
      const auto results =
          DecodeFirst(*graphed_, sequences, static_cast<size_t>(1 + step % 7));
      if (round == 0) {
        first.push_back(results);
        continue;
      }
      ASSERT_EQ(results.size(), first[step].size());
      for (size_t i = 0; i < results.size(); ++i) {
        EXPECT_EQ(results[i].scores.at(0).logprob, first[step][i].scores.at(0).logprob);
        EXPECT_EQ(results[i].attention.coverage, first[step][i].attention.coverage);
      }
    }
  }
}

TEST_F(CudaDecodeGraphTest, PromptsComeBetween) {
  std::vector<Sequence> sequences = {{1, 900, 0, kDense}, {2, 900, 20, kRefined}};
  Sequence prompt(3, 900, 40, kDense);
  std::vector<Sequence> again = sequences;
  ReadPrompts(*graphed_, sequences, 500);
  ReadPrompts(*plain_, again, 500);
  for (int step = 0; step < 12; ++step) {
    if (step % 3 == 2) {
      // One chunk with a decoding row beside it.
      std::vector<std::vector<StepResult>> results;
      for (auto& [machine, of] :
           {std::pair(graphed_.get(), &sequences), std::pair(plain_.get(), &again)}) {
        results.push_back(machine->Step(
            {.items = {(*of)[1].Item(1, 1, true), prompt.Item(2, 70, false)}}));
        results.back().resize(1);
        ++(*of)[1].done;
      }
      prompt.done += 70;
      ExpectSame(results[0], results[1]);
    } else {
      ExpectSame(DecodeFirst(*graphed_, sequences, 2), DecodeFirst(*plain_, again, 2));
    }
  }
  EXPECT_EQ(captured(), 1u);
}

// Sequences of the same text in the same blocks: all write the same there.
TEST_F(CudaDecodeGraphTest, ListsOfPagesGrowAndGraphsAreMadeAnew) {
  Sequence text(5, 3000, 0, kDense);
  ReadPrompt(*graphed_, text, 2900);
  const auto decode = [&](size_t count) {
    StepInput input;
    for (size_t i = 0; i < count; ++i) {
      input.items.push_back(text.Item(static_cast<int64_t>(i), 1, true));
    }
    return graphed_->Step(input);
  };
  std::vector<double> alone, together;
  for (int step = 0; step < 3; ++step) {
    alone.push_back(decode(1)[0].scores.at(0).logprob);
  }
  EXPECT_EQ(captured(), 1u);
  decode(30);  // 30 x 46 pages are more than lists have places for at first
  EXPECT_EQ(captured(), 0u);
  for (int step = 0; step < 3; ++step) {
    for (const StepResult& result : decode(30)) {
      EXPECT_NEAR(result.scores.at(0).logprob, alone[0], kMaxDifference);
    }
    EXPECT_EQ(decode(1)[0].scores.at(0).logprob, alone[0]);
  }
  EXPECT_EQ(captured(), 2u);
}

TEST_F(CudaDecodeGraphTest, EverySizeAndKindAndNeverTooManyGraphs) {
  std::vector<Sequence> texts = {{6, 800, 0, kDense}, {6, 800, 0, kRefined}};
  ReadPrompt(*graphed_, texts[0], 700);
  texts[1].done = 700;
  // kind: which of the texts are there.
  const auto decode = [&](size_t count, int kind) {
    StepInput input;
    for (size_t i = 0; i < count; ++i) {
      const size_t which = kind == 2 ? i % 2 : static_cast<size_t>(kind);
      input.items.push_back(texts[which].Item(static_cast<int64_t>(i), 1, true));
    }
    return graphed_->Step(input);
  };
  std::vector<double> want;
  for (const int kind : {0, 1}) want.push_back(decode(1, kind)[0].scores.at(0).logprob);
  // 65 rows are no graph's, and make the workspace grow.
  for (const size_t count : {65, 2, 3, 7, 13, 20, 30, 40, 64}) {
    for (int kind = 0; kind < 3; ++kind) {
      for (int step = 0; step < 3; ++step) {
        const auto results = decode(count, kind);
        for (size_t i = 0; i < results.size(); ++i) {
          EXPECT_NEAR(results[i].scores.at(0).logprob, want[kind == 2 ? i % 2 : kind],
                      kMaxDifference)
              << count << " " << kind << " " << step << " " << i;
        }
      }
    }
  }
  EXPECT_EQ(captured(), CudaGraphs::kMaxGraphs);
}

// What is chosen from rows, and listed of them.
TEST_F(CudaDecodeGraphTest, SampledRowsAndAlternatives) {
  Sequence text(7, 400, 0, kDense);
  ReadPrompt(*graphed_, text, 300);
  ReadPrompt(*plain_, text, 300);
  for (int step = 0; step < 4; ++step) {
    StepItem item = text.Item(1, 1, true);
    item.sample = true;
    StepItem other = item;
    other.id = RequestId{2};
    other.top_logprobs = 3;
    other.sampling.temperature = 0.8f;
    other.sampling.seed = 11;
    const StepInput input = {.items = {item, other}};
    const auto got = graphed_->Step(input), want = plain_->Step(input);
    for (int i = 0; i < 2; ++i) {
      EXPECT_EQ(got[i].scores.at(0).token, text.targets[text.done]);
      EXPECT_EQ(got[i].scores.at(0).logprob, want[i].scores.at(0).logprob);
      EXPECT_EQ(got[i].sampled->token, want[i].sampled->token);
      EXPECT_EQ(got[i].sampled->logprob, want[i].sampled->logprob);
    }
    EXPECT_EQ(got[0].sampled->rank, 1);
    ASSERT_EQ(got[1].sampled->top.size(), 3u);
    EXPECT_EQ(got[1].scores[0].top.size(), 3u);
    EXPECT_EQ(got[1].sampled->top[0].token, got[0].sampled->token);
    EXPECT_EQ(got[1].scores[0].logprob, got[0].scores[0].logprob);
    ++text.done;
  }
  EXPECT_EQ(captured(), 1u);
}

}  // namespace
}  // namespace quire

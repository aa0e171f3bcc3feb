#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core/runner/probe_cuda.h"
#include "core/runner/runner.h"

// Runners over a real model, and texts without meaning that they read.
namespace quire::testing {

inline constexpr char kSmall[] = QUIRE_MODELS_DIR "/quire-19m";
inline constexpr int kVocab = 8192;

// Activations are rounded to 8 bits in other places on the two machines: single
// logprobs differ by some hundredths, and by tenths where a token is improbable.
inline constexpr double kMeanDifference = 0.05;
inline constexpr double kMaxDifference = 0.5;
// What drawing a part of the keys adds, on a text without meaning.
inline constexpr double kRefinedDifference = 0.15;

// "" or why there is no GPU.
inline std::string WhyNot() {
  const auto chosen = ChooseDevice({.kind = DeviceKind::kCuda}, ProbeCuda());
  return chosen.ok() ? "" : std::string(chosen.status().message());
}

inline LoadedRunner Load(const std::string& device) {
  const ModelFiles files = OpenModelFiles(kSmall).value();
  return LoadRunner(files, {.kv_cache_bytes = 64 << 20, .device = device}).value();
}

inline std::vector<TokenId> Tokens(int count, int seed) {
  std::vector<TokenId> tokens(count);
  for (int i = 0; i < count; ++i) tokens[i] = (i * 7919 + i * i % 31 + seed) % kVocab;
  return tokens;
}

// One sequence with blocks of its own, and what a step of it asks.
struct Sequence {
  RequestId id;
  std::vector<TokenId> tokens;
  std::vector<TokenId> targets;
  std::vector<BlockId> blocks;
  Position done = 0;

  Sequence(uint64_t number, int count, int first_block)
      : id{number}, tokens(Tokens(count, static_cast<int>(number))) {
    targets.assign(tokens.begin() + 1, tokens.end());
    targets.push_back(7);
    // Not in order, so that positions and places differ.
    const int pages = count / 64 + 2;
    for (int i = 0; i < pages; ++i)
      blocks.push_back(BlockId{first_block + pages - 1 - i});
  }

  StepItem Item(size_t rows) const {
    const auto part = [&](const std::vector<TokenId>& all) {
      return absl::MakeConstSpan(all).subspan(done, rows);
    };
    return {.id = id,
            .begin = done,
            .tokens = part(tokens),
            .blocks = blocks,
            .targets = part(targets),
            .ranks = true};
  }
};

inline std::vector<StepResult> RunStep(ModelRunner& runner, const StepInput& input) {
  auto results = runner.Step(input);
  EXPECT_TRUE(results.ok()) << results.status();
  for (const StepResult& result : *results)
    EXPECT_TRUE(result.status.ok()) << result.status;
  return *std::move(results);
}

// Scores of a whole sequence, read in chunks of so many rows.
inline std::vector<TokenScore> ScoreAlone(ModelRunner& runner, Sequence sequence,
                                          size_t chunk) {
  std::vector<TokenScore> scores;
  while (sequence.done < static_cast<Position>(sequence.tokens.size())) {
    const size_t rows = std::min(chunk, sequence.tokens.size() - sequence.done);
    const auto results = RunStep(runner, {.items = {sequence.Item(rows)}});
    scores.insert(scores.end(), results[0].scores.begin(), results[0].scores.end());
    sequence.done += static_cast<Position>(rows);
  }
  return scores;
}

// Scores of several sequences that share steps. item(step, i, sequence): the next rows of
// the i-th, which has some left.
template <typename Item>
std::vector<std::vector<TokenScore>> ScoreTogether(ModelRunner& runner,
                                                   std::vector<Sequence> sequences,
                                                   Item item) {
  std::vector<std::vector<TokenScore>> scores(sequences.size());
  for (int step = 0;; ++step) {
    StepInput input;
    std::vector<size_t> who;
    for (size_t i = 0; i < sequences.size(); ++i) {
      if (sequences[i].done == static_cast<Position>(sequences[i].tokens.size()))
        continue;
      input.items.push_back(item(step, i, sequences[i]));
      who.push_back(i);
    }
    if (who.empty()) return scores;
    const auto results = RunStep(runner, input);
    for (size_t j = 0; j < who.size(); ++j) {
      auto& of = scores[who[j]];
      of.insert(of.end(), results[j].scores.begin(), results[j].scores.end());
      sequences[who[j]].done += static_cast<Position>(input.items[j].tokens.size());
    }
  }
}

inline void ExpectClose(const std::vector<TokenScore>& got,
                        const std::vector<TokenScore>& want,
                        double mean_difference = kMeanDifference) {
  ASSERT_EQ(got.size(), want.size());
  double sum = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    const double difference = std::abs(got[i].logprob - want[i].logprob);
    EXPECT_LT(difference, kMaxDifference) << "token " << i;
    EXPECT_EQ(got[i].token, want[i].token);
    sum += difference;
  }
  EXPECT_LT(sum / static_cast<double>(got.size()), mean_difference);
}

class CudaRunnerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (const std::string why = WhyNot(); !why.empty()) GTEST_SKIP() << why;
    loaded_ = Load("cuda");
  }
  ModelRunner& gpu() { return *loaded_.runner; }

  LoadedRunner loaded_;
};

struct Read {
  std::vector<TokenScore> scores;
  AttentionStats stats;
};
// A whole sequence; next_rows(done): how many rows the next step reads.
template <typename NextRows>
Read ReadWhole(ModelRunner& runner, Sequence sequence, const AttentionOptions& attention,
               NextRows next_rows) {
  Read read;
  const auto size = static_cast<Position>(sequence.tokens.size());
  while (sequence.done < size) {
    const auto left = static_cast<size_t>(size - sequence.done);
    StepItem item = sequence.Item(std::min<size_t>(left, next_rows(sequence.done)));
    item.attention = attention;
    const auto results = RunStep(runner, {.items = {item}});
    const std::vector<TokenScore>& scores = results[0].scores;
    read.scores.insert(read.scores.end(), scores.begin(), scores.end());
    read.stats += results[0].attention;
    sequence.done += static_cast<Position>(item.tokens.size());
  }
  return read;
}

// A sequence's last rows one by one, after a prompt that was read densely.
struct Decoded {
  std::vector<TokenScore> scores;
  AttentionStats stats;
};
inline Decoded DecodeRows(ModelRunner& runner, Sequence sequence, size_t prompt,
                          const AttentionOptions& attention) {
  StepItem item = sequence.Item(prompt);
  item.attention.mode = AttentionMode::kDense;
  RunStep(runner, {.items = {item}});
  Decoded decoded;
  for (sequence.done = static_cast<Position>(prompt);
       sequence.done < static_cast<Position>(sequence.tokens.size()); ++sequence.done) {
    item = sequence.Item(1);
    item.attention = attention;
    const auto results = RunStep(runner, {.items = {item}});
    decoded.scores.push_back(results[0].scores.at(0));
    decoded.stats += results[0].attention;
  }
  return decoded;
}

}  // namespace quire::testing

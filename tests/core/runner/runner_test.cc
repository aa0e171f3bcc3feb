#include "core/runner/runner.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/kernels/kernels.h"
#include "tests/support/sanitizer.h"

namespace quire {
namespace {

using ::testing::HasSubstr;

const char kTiny[] = QUIRE_TESTDATA_DIR "/models/qwen3";
const char kSmall[] = QUIRE_MODELS_DIR "/quire-19m";

LoadedRunner LoadOrDie(const std::string& folder, ComputeType compute) {
  const ModelFiles files = OpenModelFiles(folder).value();
  return LoadRunner(
             files,
             {.compute = compute, .kv_cache_bytes = 64 << 20, .tokens_per_block = 16})
      .value();
}

std::vector<BlockId> Blocks(int32_t first, int32_t count) {
  std::vector<BlockId> blocks;
  for (int32_t i = 0; i < count; ++i) blocks.push_back(BlockId{first + i});
  return blocks;
}

std::vector<TokenId> Tokens(size_t count, TokenId vocab) {
  std::vector<TokenId> tokens(count);
  for (size_t i = 0; i < count; ++i)
    tokens[i] = static_cast<TokenId>((i * i * 31 + 7 * i) % vocab);
  return tokens;
}

StepResult StepOrDie(LoadedRunner& loaded, const StepItem& item) {
  return loaded.runner->Step({.items = {item}}).value()[0];
}

// The logprobs of tokens[1..], computed in chunks.
std::vector<float> ScoreInChunks(LoadedRunner& loaded, const std::vector<TokenId>& tokens,
                                 size_t chunk) {
  const std::vector<BlockId> blocks = Blocks(0, 64);
  std::vector<float> logprobs;
  for (size_t begin = 0; begin < tokens.size(); begin += chunk) {
    const size_t size = std::min(chunk, tokens.size() - begin);
    std::vector<TokenId> targets(
        tokens.begin() + begin + 1,
        tokens.begin() + std::min(tokens.size(), begin + size + 1));
    targets.resize(size, kNoTarget);
    const StepResult result =
        StepOrDie(loaded, {.begin = static_cast<Position>(begin),
                           .tokens = absl::MakeSpan(tokens).subspan(begin, size),
                           .blocks = blocks,
                           .targets = targets});
    for (const TokenScore& s : result.scores) logprobs.push_back(s.logprob);
  }
  return logprobs;
}

TEST(RunnerTest, ChunkedScoresEqualWholeScores) {
  LoadedRunner loaded = LoadOrDie(kTiny, ComputeType::kFloat32);
  const std::vector<TokenId> tokens = Tokens(150, 260);
  const std::vector<float> whole = ScoreInChunks(loaded, tokens, 150);
  ASSERT_EQ(whole.size(), 149u);
  for (const size_t chunk : {1, 16, 37, 149}) {
    const std::vector<float> parts = ScoreInChunks(loaded, tokens, chunk);
    ASSERT_EQ(parts.size(), whole.size());
    for (size_t i = 0; i < whole.size(); ++i) EXPECT_NEAR(parts[i], whole[i], 1e-4) << i;
  }
}

TEST(RunnerTest, ScoresOfAnAnswerAreItsGeneratedLogprobs) {
  LoadedRunner loaded = LoadOrDie(kTiny, ComputeType::kFloat32);
  const std::vector<BlockId> blocks = Blocks(0, 64);
  std::vector<TokenId> text = Tokens(40, 260);
  std::vector<float> generated;
  for (size_t begin = 0; generated.size() < 25; begin = text.size() - 1) {
    const StepResult r =
        StepOrDie(loaded, {.begin = static_cast<Position>(begin),
                           .tokens = absl::MakeSpan(text).subspan(begin),
                           .blocks = blocks,
                           .sample = true,
                           .sampling = {.temperature = 1.5f, .seed = 11},
                           .sample_step = static_cast<int64_t>(generated.size())});
    generated.push_back(r.sampled->logprob);
    text.push_back(r.sampled->token);
  }
  const std::vector<float> scores = ScoreInChunks(loaded, text, 64);
  for (size_t i = 0; i < generated.size(); ++i) {
    EXPECT_NEAR(generated[i], scores[39 + i], 1e-4) << i;
  }
}

TEST(RunnerTest, RanksAndAlternativesAgreeWithEachOther) {
  LoadedRunner loaded = LoadOrDie(kTiny, ComputeType::kFloat32);
  const std::vector<TokenId> tokens = Tokens(30, 260);
  const std::vector<BlockId> blocks = Blocks(3, 4);
  std::vector<TokenId> targets(30, kNoTarget);
  targets[4] = 17;
  targets[29] = 200;
  const StepResult r = StepOrDie(loaded, {.tokens = tokens,
                                          .blocks = blocks,
                                          .targets = targets,
                                          .ranks = true,
                                          .top_logprobs = 260});
  ASSERT_EQ(r.scores.size(), 2u);
  for (const TokenScore& score : r.scores) {
    ASSERT_EQ(score.top.size(), 260u);
    double mass = 0;
    for (const TokenLogprob& t : score.top) mass += std::exp(t.logprob);
    EXPECT_NEAR(mass, 1.0, 1e-5);
    EXPECT_EQ(score.top[score.rank - 1].token, score.token);
    EXPECT_NEAR(score.top[score.rank - 1].logprob, score.logprob, 1e-5);
  }
}

TEST(RunnerTest, SequencesOfOneStepEqualSequencesAlone) {
  LoadedRunner loaded = LoadOrDie(kTiny, ComputeType::kFloat32);
  const std::vector<TokenId> a = Tokens(50, 260), b = Tokens(33, 251);
  const std::vector<BlockId> a_blocks = Blocks(0, 4), b_blocks = Blocks(10, 3);
  const StepItem first = {.id = RequestId{1},
                          .tokens = a,
                          .blocks = a_blocks,
                          .sample = true,
                          .top_logprobs = 5};
  const StepItem second = {.id = RequestId{2},
                           .tokens = b,
                           .blocks = b_blocks,
                           .sample = true,
                           .top_logprobs = 5};
  const StepResult alone_a = StepOrDie(loaded, first),
                   alone_b = StepOrDie(loaded, second);
  const std::vector<StepResult> both =
      loaded.runner->Step({.items = {first, second}}).value();
  ASSERT_EQ(both.size(), 2u);
  EXPECT_EQ(both[0].id, RequestId{1});
  EXPECT_EQ(both[1].id, RequestId{2});
  EXPECT_EQ(both[0].sampled->token, alone_a.sampled->token);
  EXPECT_EQ(both[1].sampled->token, alone_b.sampled->token);
  EXPECT_NEAR(both[0].sampled->logprob, alone_a.sampled->logprob, 1e-4);
  EXPECT_NEAR(both[1].sampled->logprob, alone_b.sampled->logprob, 1e-4);
}

TEST(RunnerTest, BFloat16StaysNearFloat32) {
  if (!kernels::HasFastBFloat16()) GTEST_SKIP() << "no AVX512-BF16 here";
  LoadedRunner exact = LoadOrDie(kSmall, ComputeType::kFloat32);
  LoadedRunner fast = LoadOrDie(kSmall, ComputeType::kAuto);
  EXPECT_EQ(fast.compute, ComputeType::kBFloat16);
  EXPECT_LT(fast.weight_bytes, exact.weight_bytes * 0.51);
  // ThreadSanitizer makes the loops of bfloat16 hundreds of times slower.
  const std::vector<TokenId> tokens = Tokens(kSanitized ? 40 : 600, 8192);
  const std::vector<float> a = ScoreInChunks(exact, tokens, 256),
                           b = ScoreInChunks(fast, tokens, 256);
  double difference = 0;
  for (size_t i = 0; i < a.size(); ++i) difference += std::abs(a[i] - b[i]) / a.size();
  EXPECT_LT(difference, 0.05);
}

struct BadItem {
  const char* name;
  StepItem item;
  const char* message;
};

TEST(RunnerTest, RefusesItemsThatBreakTheRules) {
  LoadedRunner loaded = LoadOrDie(kTiny, ComputeType::kFloat32);
  const std::vector<TokenId> ok = {1, 2}, negative = {-1}, large = {260};
  const std::vector<BlockId> blocks = Blocks(0, 4), wrong = {BlockId{1 << 30}};
  const BadItem cases[] = {
      {"no tokens", {.blocks = blocks}, "no tokens"},
      {"negative id", {.tokens = negative, .blocks = blocks}, "not in [0, 260)"},
      {"large id", {.tokens = large, .blocks = blocks}, "not in [0, 260)"},
      {"large target",
       {.tokens = ok, .blocks = blocks, .targets = absl::MakeSpan(&large[0], 1)},
       "targets"},
      {"no blocks", {.tokens = ok}, "needs 1"},
      {"unknown block", {.tokens = ok, .blocks = wrong}, "1073741824"},
      {"beyond the window",
       {.begin = 1 << 30, .tokens = ok, .blocks = blocks},
       "the model has"},
  };
  for (const BadItem& bad : cases) {
    // The item beside it is computed.
    const auto results =
        loaded.runner->Step({.items = {bad.item, {.tokens = ok, .blocks = blocks}}})
            .value();
    ASSERT_EQ(results.size(), 2u);
    EXPECT_EQ(results[0].status.code(), absl::StatusCode::kInvalidArgument) << bad.name;
    EXPECT_THAT(std::string(results[0].status.message()), HasSubstr(bad.message))
        << bad.name;
    EXPECT_EQ(results[1].status, absl::OkStatus());
    EXPECT_GT(results[1].attention.work.columns, 0);
  }
}

class HeadColumnsTest : public ::testing::TestWithParam<AttentionMode> {};

TEST_P(HeadColumnsTest, AddUpToTheColumns) {
  const ModelFiles files = OpenModelFiles(kSmall).value();
  LoadedRunner loaded = LoadRunner(files, {.compute = ComputeType::kFloat32,
                                           .kv_cache_bytes = 64 << 20,
                                           .threads = 2})
                            .value();
  const ModelConfig& config = files.config;
  const auto heads =
      static_cast<size_t>(config.num_layers) * static_cast<size_t>(config.num_kv_heads);
  const std::vector<TokenId> tokens = Tokens(501, 8192);
  const std::vector<BlockId> blocks = Blocks(0, 12);
  StepItem item = {.id = RequestId{1},
                   .tokens = absl::MakeSpan(tokens).first(500),
                   .blocks = blocks,
                   .attention = {.mode = GetParam()}};
  item.attention.faithful.min_focal_tokens = 64;
  for (const bool decode : {false, true}) {
    if (decode) {
      item.begin = 500;
      item.tokens = absl::MakeSpan(tokens).subspan(500);
    }
    const StepResult result = loaded.runner->Step({.items = {item}}).value()[0];
    ASSERT_TRUE(result.status.ok()) << result.status;
    ASSERT_EQ(result.head_columns.size(), heads);
    EXPECT_EQ(std::accumulate(result.head_columns.begin(), result.head_columns.end(),
                              int64_t{0}),
              result.attention.work.columns);
    const auto [least, most] =
        std::minmax_element(result.head_columns.begin(), result.head_columns.end());
    EXPECT_GT(*least, 0);
    // Only refined rows read what each head needs.
    EXPECT_EQ(*least != *most, GetParam() == AttentionMode::kRefined);
  }
}

INSTANTIATE_TEST_SUITE_P(Modes, HeadColumnsTest,
                         ::testing::Values(AttentionMode::kDense, AttentionMode::kRefined,
                                           AttentionMode::kFaithful));

TEST(RunnerTest, RefusesCopiesOfBlocksThatAreNotThere) {
  LoadedRunner loaded = LoadOrDie(kTiny, ComputeType::kFloat32);
  const absl::Status status =
      loaded.runner->Step({.copies = {{BlockId{0}, BlockId{1 << 30}}}}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("copied cache block 1073741824"));
}

TEST(RunnerTest, ACopiedBlockIsAsGoodAsTheOneItWasCopiedFrom) {
  LoadedRunner loaded = LoadOrDie(kTiny, ComputeType::kFloat32);
  const std::vector<TokenId> tokens = Tokens(31, 260);
  const std::vector<BlockId> first = Blocks(0, 2), second = {BlockId{0}, BlockId{9}};
  StepOrDie(loaded, {.id = RequestId{1}, .tokens = tokens, .blocks = first});
  const StepItem last = {.begin = 30,
                         .tokens = absl::MakeSpan(tokens).subspan(30),
                         .sample = true,
                         .top_logprobs = 5};
  StepItem original = last, copied = last;
  original.id = RequestId{1};
  original.blocks = first;
  copied.id = RequestId{2};
  copied.blocks = second;
  const auto results =
      loaded.runner
          ->Step({.items = {original, copied}, .copies = {{BlockId{1}, BlockId{9}}}})
          .value();
  EXPECT_EQ(results[0].sampled->token, results[1].sampled->token);
  EXPECT_EQ(results[0].sampled->logprob, results[1].sampled->logprob);
}

TEST(LoadRunnerTest, RefusesWhatCannotRun) {
  const ModelFiles files = OpenModelFiles(kTiny).value();
  const auto code = [&](const RunnerOptions& o) {
    return LoadRunner(files, o).status().code();
  };
  EXPECT_EQ(code({.threads = -1}), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code({.kv_cache_bytes = 1}), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(code({.compute = ComputeType::kBFloat16, .tokens_per_block = 16}),
            absl::StatusCode::kOk);
}

// A text that AUTO may read refined, by its least tokens.
AttentionStats ReadFromToken200On(LoadedRunner& loaded, AttentionMode mode,
                                  bool compact = false) {
  const std::vector<TokenId> tokens = Tokens(300, 8192);
  const std::vector<BlockId> blocks = Blocks(0, 5);
  StepItem item = {.tokens = tokens, .blocks = blocks};
  item.attention = {.mode = mode, .min_sparse_tokens = 200, .compact = compact};
  return StepOrDie(loaded, item).attention;
}

LoadedRunner LoadSmall(ComputeType compute) {
  return LoadRunner(OpenModelFiles(kSmall).value(),
                    {.compute = compute, .kv_cache_bytes = 64 << 20})
      .value();
}

// What an item says of where it pays is not asked: the runner knows.
TEST(SparseRunnerTest, AutoIsDenseWhereRefinedIsSlower) {
  LoadedRunner loaded = LoadSmall(ComputeType::kFloat32);
  EXPECT_EQ(loaded.refined_pays_from, kNeverPays);
  const AttentionStats dense = ReadFromToken200On(loaded, AttentionMode::kAuto);
  EXPECT_EQ(dense.sparse_rows, 0);
  EXPECT_EQ(dense.work.columns, dense.work.dense_columns);
  EXPECT_GT(ReadFromToken200On(loaded, AttentionMode::kRefined).sparse_rows, 0);
  // Memory is asked for then, which only refined can give back.
  EXPECT_GT(ReadFromToken200On(loaded, AttentionMode::kAuto, true).sparse_rows, 0);
}

TEST(SparseRunnerTest, AutoIsRefinedWhereThatIsFaster) {
  if (!kernels::HasFastBFloat16()) GTEST_SKIP() << "no AVX512-BF16 here";
  LoadedRunner loaded = LoadSmall(ComputeType::kBFloat16);
  EXPECT_EQ(loaded.refined_pays_from, 0);
  EXPECT_GT(ReadFromToken200On(loaded, AttentionMode::kAuto).sparse_rows, 0);
}

// Compact mode: what hardly matters goes, the rest goes on without it.
class CompactTest : public ::testing::Test {
 protected:
  CompactTest()
      : loaded_(
            LoadRunner(OpenModelFiles(kSmall).value(), {.compute = ComputeType::kFloat32,
                                                        .kv_cache_bytes = 64 << 20,
                                                        .threads = 2})
                .value()),
        tokens_(Tokens(700, 8192)),
        blocks_(Blocks(0, 12)) {}

  StepItem Item(size_t begin, size_t count) {
    StepItem item = {.id = RequestId{7},
                     .begin = static_cast<Position>(begin),
                     .tokens = absl::MakeSpan(tokens_).subspan(begin, count),
                     .blocks = blocks_,
                     .sample = true,
                     .top_logprobs = 1};
    item.attention.mode = AttentionMode::kRefined;
    item.attention.eps = 0.3f;
    item.attention.compact = true;
    item.last_chunk = begin + count == 650;
    return item;
  }

  LoadedRunner loaded_;
  const std::vector<TokenId> tokens_;
  std::vector<BlockId> blocks_;
};

TEST_F(CompactTest, DropsPagesAndGoesOn) {
  EXPECT_TRUE(StepOrDie(loaded_, Item(0, 600)).dropped_blocks.empty());
  const std::vector<int32_t> dropped = StepOrDie(loaded_, Item(600, 50)).dropped_blocks;
  ASSERT_FALSE(dropped.empty());
  for (const int32_t page : dropped) {
    EXPECT_GE(page, 1);
    EXPECT_LT(page, (649 - 128) / 64);
    blocks_[page] = kNoBlock;
  }
  const StepResult next = StepOrDie(loaded_, Item(650, 1));
  EXPECT_LT(next.sampled->logprob, 0);
  EXPECT_EQ(next.attention.audits, 0);
  // Not even a request that has fallen back to dense can read what is gone.
  StepItem dense = Item(651, 1);
  dense.attention.mode = AttentionMode::kDense;
  EXPECT_LT(StepOrDie(loaded_, dense).sampled->logprob, 0);
}

TEST_F(CompactTest, RefusesBlocksThatAreMissingOrComeBack) {
  StepOrDie(loaded_, Item(0, 600));
  blocks_[2] = kNoBlock;
  absl::Status status = StepOrDie(loaded_, Item(600, 50)).status;
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("cache block 2 is there"));
  blocks_[2] = BlockId{2};
  const StepResult result = StepOrDie(loaded_, Item(600, 50));
  ASSERT_FALSE(result.dropped_blocks.empty());
  status = StepOrDie(loaded_, Item(650, 1)).status;
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("was dropped"));
}

TEST(SparseRunnerTest, NeedsBlocksOfAGroup) {
  LoadedRunner loaded = LoadOrDie(kTiny, ComputeType::kFloat32);  // blocks of 16
  const std::vector<TokenId> tokens = Tokens(4, 32);
  const std::vector<BlockId> blocks = Blocks(0, 1);
  StepItem item = {.tokens = tokens, .blocks = blocks};
  item.attention.mode = AttentionMode::kRefined;
  const absl::Status status = StepOrDie(loaded, item).status;
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("cache blocks of 64 tokens"));
}

}  // namespace
}  // namespace quire

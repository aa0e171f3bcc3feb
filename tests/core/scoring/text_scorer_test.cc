#include "core/scoring/text_scorer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "core/base/clock.h"
#include "tests/support/fake_clock.h"
#include "tests/support/fake_runner.h"
#include "tests/support/scheduling_recorder.h"

namespace quire {
namespace {

using ::testing::HasSubstr;

constexpr int32_t kVocab = 50'000;

// Everything that was reported.
class Recorder : public TextScoreObserver {
 public:
  absl::Status OnProgress(const ScoreProgress& report) override {
    progress.push_back(report);
    return progress.size() == fail_at_progress ? absl::DataLossError("progress")
                                               : absl::OkStatus();
  }
  absl::Status OnScores(int64_t first_token,
                        absl::Span<const TokenScore> block) override {
    EXPECT_EQ(first_token, static_cast<int64_t>(scores.size()));
    EXPECT_GE(block.size(), 1u);
    EXPECT_LE(block.size(), static_cast<size_t>(kMaxScoreBlock));
    scores.insert(scores.end(), block.begin(), block.end());
    ++blocks;
    return blocks == fail_at_block ? absl::DataLossError("scores") : absl::OkStatus();
  }

  absl::Status OnImportance(int64_t first_token, absl::Span<const float> block) override {
    EXPECT_EQ(first_token, static_cast<int64_t>(importance.size()));
    importance_begins.push_back(first_token);
    EXPECT_GE(block.size(), 1u);
    EXPECT_LE(block.size(), static_cast<size_t>(kMaxScoreBlock));
    importance.insert(importance.end(), block.begin(), block.end());
    ++importance_blocks;
    return importance_blocks == fail_at_importance ? absl::DataLossError("importance")
                                                   : absl::OkStatus();
  }

  std::vector<ScoreProgress> progress;
  std::vector<TokenScore> scores;
  std::vector<float> importance;
  std::vector<int64_t> importance_begins;  // of the blocks
  size_t importance_blocks = 0;
  size_t fail_at_importance = 0;
  size_t blocks = 0;
  size_t fail_at_progress = 0;
  size_t fail_at_block = 0;
};

class TextScorerTest : public ::testing::Test {
 protected:
  TextScorerTest() { Start(10'000, 64); }

  void Start(int32_t max_positions, int32_t chunk_tokens) {
    EngineOptions options;
    options.kv.num_blocks = 400;
    options.kv.tokens_per_block = 64;
    options.model = {kVocab, max_positions};
    options.chunk_tokens = chunk_tokens;
    options.max_running = 4;
    options.max_step = absl::ZeroDuration();  // steps as large as they may be
    engine_ = Engine::Start(options, model_.MakeRunner(), nullptr, clock_).value();
  }

  // A logprob that depends only on which token it is, and tokens that say where they
  // stand: windows must then give what one window gives.
  static std::vector<TokenId> Text(int64_t size) {
    std::vector<TokenId> tokens;
    for (int64_t i = 0; i < size; ++i) tokens.push_back(static_cast<TokenId>(i));
    return tokens;
  }

  absl::StatusOr<TextScoreResult> Score(int64_t size, int32_t context, int32_t overlap) {
    recorder_ = std::make_unique<Recorder>();
    return ScoreText(*engine_, context, Text(size), {.overlap_tokens = overlap}, nullptr,
                     *recorder_);
  }

  absl::StatusOr<TextScoreResult> ScoreImportance(absl::Span<const TokenId> text,
                                                  int32_t context, int32_t overlap) {
    recorder_ = std::make_unique<Recorder>();
    return ScoreText(*engine_, context, text,
                     {.overlap_tokens = overlap, .importance = true}, nullptr,
                     *recorder_);
  }

  FakeClock clock_;
  FakeModel model_{kVocab, 64};
  std::unique_ptr<Engine> engine_;
  std::unique_ptr<Recorder> recorder_ = std::make_unique<Recorder>();
};

TEST_F(TextScorerTest, OneWindowWhenTheTextFits) {
  const TextScoreResult result = Score(100, 100, 0).value();
  EXPECT_EQ(result.windows, 1);
  EXPECT_EQ(result.overlap_tokens, 0);
  EXPECT_EQ(result.scored_tokens, 99);
  EXPECT_EQ(result.usage, (Usage{.prompt_tokens = 99}));  // nothing follows the last one
  double sum = 0;
  for (TokenId token = 1; token < 100; ++token) sum += FakeLogprob(token);
  EXPECT_DOUBLE_EQ(result.logprob, sum);
  ASSERT_EQ(recorder_->scores.size(), 100u);
  EXPECT_TRUE(std::isnan(recorder_->scores[0].logprob));
  EXPECT_EQ(recorder_->scores[0].token, 0);
  EXPECT_EQ(recorder_->scores[0].rank, 0);
  EXPECT_EQ(recorder_->scores[99].logprob, FakeLogprob(99));
}

TEST_F(TextScorerTest, ASingleTokenHasNoProbability) {
  const TextScoreResult result = Score(1, 100, 0).value();
  EXPECT_EQ(result.scored_tokens, 0);
  EXPECT_EQ(result.windows, 1);
  EXPECT_EQ(recorder_->scores.size(), 1u);
  EXPECT_EQ(model_.num_steps(), 0);
}

struct WindowCase {
  int64_t tokens;
  int32_t context, overlap;
  int32_t windows;
  int64_t read;  // tokens of all windows
};
class WindowTest : public TextScorerTest,
                   public ::testing::WithParamInterface<WindowCase> {};

TEST_P(WindowTest, GivesWhatOneWindowGives) {
  const WindowCase& c = GetParam();
  const TextScoreResult whole = Score(c.tokens, 5000, 0).value();
  const std::vector<TokenScore> expected = recorder_->scores;
  const TextScoreResult result = Score(c.tokens, c.context, c.overlap).value();
  EXPECT_EQ(result.windows, c.windows);
  EXPECT_EQ(CountScoreWindows(c.tokens, c.context, c.overlap), c.windows);
  EXPECT_EQ(result.overlap_tokens, c.overlap);
  EXPECT_EQ(result.scored_tokens, c.tokens - 1);
  EXPECT_DOUBLE_EQ(result.logprob, whole.logprob);
  EXPECT_EQ(result.usage.prompt_tokens, c.read - c.windows);
  ASSERT_EQ(recorder_->scores.size(), expected.size());
  for (size_t i = 1; i < expected.size(); ++i) {
    EXPECT_EQ(recorder_->scores[i].token, static_cast<TokenId>(i));
    EXPECT_EQ(recorder_->scores[i].logprob, expected[i].logprob) << i;
  }
}

// The plan says what is read.
TEST_P(WindowTest, IsPlanned) {
  const WindowCase& c = GetParam();
  int64_t windows = 0, read = 0;
  for (const ScoreWindows& alike : PlanScoreWindows(c.tokens, c.context, c.overlap)) {
    windows += alike.count;
    read += alike.count * alike.read_tokens;
  }
  EXPECT_EQ(windows, c.windows);
  EXPECT_EQ(read, c.read - c.windows);
}

INSTANTIATE_TEST_SUITE_P(
    Grid, WindowTest,
    ::testing::Values(WindowCase{101, 100, 25, 2, 126}, WindowCase{175, 100, 25, 2, 200},
                      WindowCase{176, 100, 25, 3, 226},
                      WindowCase{1000, 128, 127, 873, 872 * 127 + 1000},
                      WindowCase{1000, 128, 1, 8, 1007}, WindowCase{7, 2, 1, 6, 12}));

TEST_F(TextScorerTest, PlansOneWindowAndNone) {
  EXPECT_THAT(PlanScoreWindows(100, 100, 0),
              ::testing::ElementsAre(ScoreWindows{.read_tokens = 99}));
  EXPECT_THAT(PlanScoreWindows(300, 100, 0),
              ::testing::ElementsAre(ScoreWindows{.read_tokens = 99, .count = 3},
                                     ScoreWindows{.read_tokens = 74}));
  EXPECT_THAT(PlanScoreWindows(1, 100, 0), ::testing::IsEmpty());
}

TEST_F(TextScorerTest, TheFirstWindowTellsOfTheOthersWhichAreAdmitted) {
  std::vector<Scheduling> seen;
  SchedulingRecorder recorder(*engine_, seen);
  const TextScoreOptions options{.overlap_tokens = 25,
                                 .scheduling = {.priority = 2, .tenant = "acme"}};
  ASSERT_TRUE(ScoreText(recorder, 100, Text(176), options, nullptr, *recorder_).ok());
  ASSERT_EQ(seen.size(), 3u);
  for (size_t i = 0; i < seen.size(); ++i) {
    EXPECT_EQ(seen[i].priority, 2);
    EXPECT_EQ(seen[i].tenant, "acme");
    EXPECT_EQ(seen[i].admitted, i > 0);
    EXPECT_EQ(seen[i].later_new_tokens, 0);
    EXPECT_EQ(seen[i].later_prompt_tokens, i == 0 ? 99 + 25 : 0);
  }
}

TEST_F(TextScorerTest, DefaultOverlapIsAQuarter) {
  const TextScoreResult result = Score(300, 100, 0).value();
  EXPECT_EQ(result.overlap_tokens, 25);
  EXPECT_EQ(result.windows, 4);
}

TEST_F(TextScorerTest, ContextReallyIsTheWindow) {
  model_.set_logprob([](absl::Span<const TokenId> prefix, TokenId) {
    return -static_cast<float>(prefix.size());
  });
  Start(10'000, 64);
  ASSERT_TRUE(Score(20, 10, 4).ok());
  // Windows [0, 10), [6, 16), [12, 20): context of the scored tokens in each.
  const std::vector<float> contexts = {1, 2, 3, 4, 5, 6, 7, 8, 9, 4,
                                       5, 6, 7, 8, 9, 4, 5, 6, 7};
  for (size_t i = 0; i < contexts.size(); ++i) {
    EXPECT_EQ(recorder_->scores[i + 1].logprob, -contexts[i]) << i + 1;
  }
}

TEST_F(TextScorerTest, BlocksAreBounded) {
  Start(20'000, 10'000);  // a chunk larger than a block
  ASSERT_TRUE(Score(9'000, 10'000, 0).ok());
  EXPECT_EQ(recorder_->blocks, 1u + 3u);
}

TEST_F(TextScorerTest, ReportsProgressOfEachWindow) {
  ASSERT_TRUE(Score(250, 200, 50).ok());
  const std::vector<ScoreProgress>& progress = recorder_->progress;
  ASSERT_GE(progress.size(), 2u);
  EXPECT_EQ(progress.front().window, 1);
  EXPECT_EQ(progress.front().windows, 2);
  EXPECT_EQ(progress.front().total_tokens, 199);
  EXPECT_EQ(progress.back().window, 2);
  EXPECT_EQ(progress.back().done_tokens, 99);
  EXPECT_EQ(progress.back().total_tokens, 99);
}

TEST_F(TextScorerTest, RanksAndAlternativesOnRequest) {
  const std::vector<TokenId> text = Text(5);
  ASSERT_TRUE(ScoreText(*engine_, 100, text, {.top_logprobs = 2, .ranks = true}, nullptr,
                        *recorder_)
                  .ok());
  EXPECT_EQ(recorder_->scores[0].top.size(), 0u);
  EXPECT_EQ(recorder_->scores[3].rank, FakeRank(3));
  EXPECT_EQ(recorder_->scores[3].top.size(), 2u);
}

TEST_F(TextScorerTest, ImportanceIsAttentionOverWhatIsExpectedInEveryWindow) {
  for (const int32_t overlap : {1, 2, 25, 99}) {
    const std::vector<TokenId> text = Text(477);
    ASSERT_TRUE(ScoreImportance(text, 100, overlap).ok());
    ASSERT_EQ(recorder_->importance.size(), 477u) << overlap;
    for (size_t i = 0; i < 476; ++i) {
      EXPECT_NEAR(recorder_->importance[i], FakeWeight(text[i]), 1e-5)
          << overlap << " " << i;
    }
    EXPECT_EQ(recorder_->importance[476], 0);  // nothing follows it
  }
}

// Windows [0, 100), [60, 160) and [120, 190): 40 tokens are read twice.
TEST_F(TextScorerTest, TwoWindowsShareTheTokensThatBothRead) {
  ASSERT_TRUE(ScoreImportance(Text(190), 100, 40).ok());
  EXPECT_THAT(recorder_->importance_begins, ::testing::ElementsAre(0, 80, 140));
}

TEST_F(TextScorerTest, ImportanceOfASingleTokenIsNone) {
  ASSERT_TRUE(ScoreImportance({8}, 100, 0).ok());
  EXPECT_THAT(recorder_->importance, ::testing::ElementsAre(0));
}

TEST_F(TextScorerTest, ImportanceComesInBlocksAndOnlyOnRequest) {
  Start(20'000, 512);
  ASSERT_TRUE(ScoreImportance(std::vector<TokenId>(9'000, 8), 10'000, 0).ok());
  EXPECT_EQ(recorder_->importance.size(), 9'000u);
  EXPECT_EQ(recorder_->importance_blocks, 3u);
  ASSERT_TRUE(Score(100, 100, 0).ok());
  EXPECT_EQ(recorder_->importance_blocks, 0u);
}

TEST_F(TextScorerTest, AttentionReachesEveryWindowAndReceiptsAddUp) {
  const AttentionOptions attention{.mode = AttentionMode::kRefined, .eps = 0.25f};
  const TextScoreResult result =
      ScoreText(*engine_, 300, Text(500), {.overlap_tokens = 50, .attention = attention},
                nullptr, *recorder_)
          .value();
  ASSERT_EQ(result.windows, 2);
  for (const RecordedStep& step : model_.steps()) {
    EXPECT_EQ(step.items[0].attention.mode, AttentionMode::kRefined);
  }
  AttentionStats expected = FakeAttention(attention, 0, 299);
  expected += FakeAttention(attention, 0, 249);
  EXPECT_EQ(result.attention.mode, AttentionMode::kRefined);
  EXPECT_EQ(result.attention.eps, 0.25f);
  EXPECT_EQ(result.attention.prefill.work, expected.work);
  EXPECT_EQ(result.attention.prefill.sparse_rows, 299 - 192 + 249 - 192);
}

TEST_F(TextScorerTest, RefusesAttentionThatDoesNotSuitTheText) {
  const auto refusal = [&](const AttentionOptions& attention, int64_t size) {
    const absl::Status status = ScoreText(*engine_, 100, Text(size),
                                          {.attention = attention}, nullptr, *recorder_)
                                    .status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    return std::string(status.message());
  };
  EXPECT_EQ(refusal({.eps = 2}, 50), "attention.eps is 2; it must be in [0, 1]");
  AttentionOptions faithful{.mode = AttentionMode::kFaithful};
  faithful.faithful.group_tokens = 51;
  EXPECT_EQ(refusal(faithful, 50),
            "attention.faithful.group_tokens is 51; it must be at most 50, the text's "
            "tokens");
  faithful.faithful.whole_prompt = true;
  EXPECT_EQ(refusal(faithful, 101),
            "attention.faithful.whole_prompt is true; the text must then have at most "
            "100 tokens, one window, and it has 101");
  EXPECT_EQ(model_.num_steps(), 0);
  EXPECT_EQ(recorder_->blocks, 0u);
}

TEST_F(TextScorerTest, RefusesBadArguments) {
  EXPECT_EQ(Score(0, 100, 0).status().code(), absl::StatusCode::kInvalidArgument);
  for (const int32_t overlap : {-1, 100, 101}) {
    const absl::Status status = Score(300, 100, overlap).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()),
                HasSubstr("overlap_tokens is " + std::to_string(overlap)));
  }
  EXPECT_EQ(model_.num_steps(), 0);
}

TEST_F(TextScorerTest, EnginesRefusalPassesThrough) {
  const std::vector<TokenId> text = {1, kVocab};
  const absl::Status status =
      ScoreText(*engine_, 100, text, {}, nullptr, *recorder_).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(recorder_->blocks, 1u);
}

TEST_F(TextScorerTest, RunnersErrorPassesThrough) {
  model_.FailStep(3, absl::DataLossError("bad memory"));
  const absl::Status status = Score(1000, 128, 1).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(status.message()), HasSubstr("bad memory"));
}

TEST_F(TextScorerTest, ObserversErrorStops) {
  Recorder scores;
  scores.fail_at_block = 3;
  EXPECT_EQ(ScoreText(*engine_, 128, Text(5000), {}, nullptr, scores).status().code(),
            absl::StatusCode::kDataLoss);
  EXPECT_EQ(scores.blocks, 3u);
  Recorder progress;
  progress.fail_at_progress = 1;
  EXPECT_EQ(ScoreText(*engine_, 128, Text(5000), {}, nullptr, progress).status().code(),
            absl::StatusCode::kDataLoss);
  EXPECT_EQ(progress.progress.size(), 1u);
  Recorder importance;
  importance.fail_at_importance = 2;
  EXPECT_EQ(
      ScoreText(*engine_, 128, Text(5000), {.importance = true}, nullptr, importance)
          .status()
          .code(),
      absl::StatusCode::kDataLoss);
  EXPECT_EQ(importance.importance_blocks, 2u);
}

TEST_F(TextScorerTest, CancelStops) {
  Cancellation cancellation;
  model_.set_on_step([&, steps = 0](const StepInput&) mutable {
    if (++steps == 5) cancellation.Cancel();
  });
  Start(10'000, 64);
  const absl::Status status =
      ScoreText(*engine_, 128, Text(5000), {}, &cancellation, *recorder_).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kCancelled);
  EXPECT_LE(model_.num_steps(), 6);
  EXPECT_LT(recorder_->scores.size(), 1000u);
}

TEST_F(TextScorerTest, DeadlineStops) {
  const TextScoreOptions options{.deadline = clock_.Now() + absl::Seconds(10)};
  model_.set_on_step([&](const StepInput&) { clock_.Advance(absl::Seconds(3)); });
  Start(10'000, 64);
  const absl::Status status =
      ScoreText(*engine_, 128, Text(5000), options, nullptr, *recorder_).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_LE(model_.num_steps(), 4);
}

}  // namespace
}  // namespace quire

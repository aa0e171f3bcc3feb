#include "core/engine/sequence.h"

#include <memory>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/core/engine/recording_sink.h"

namespace quire {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

class SequenceTest : public testing::Test {
 protected:
  const std::shared_ptr<SinkRecord> record_ = std::make_shared<SinkRecord>();
  RecordingSink sink_{record_};
};

StepResult Sampled(TokenId token) { return {.sampled = TokenScore{.token = token}}; }

StepResult Scored(const std::vector<TokenId>& tokens) {
  StepResult result;
  for (const TokenId token : tokens) result.scores.push_back({.token = token});
  return result;
}

TEST_F(SequenceTest, GeneratePlansChunksThenSingleTokens) {
  GenerateSequence sequence({.prompt = {10, 11, 12, 13, 14},
                             .max_new_tokens = 2,
                             .sampling = {.seed = 9},
                             .top_logprobs = 3});
  StepItem item = sequence.Plan(3);
  EXPECT_EQ(item.begin, 0);
  EXPECT_THAT(item.tokens, ElementsAre(10, 11, 12));
  EXPECT_FALSE(item.sample);
  EXPECT_THAT(item.targets, IsEmpty());
  EXPECT_EQ(*sequence.Commit({}, sink_), std::nullopt);
  EXPECT_FALSE(sequence.prompt_computed());

  item = sequence.Plan(2);
  EXPECT_EQ(item.begin, 3);
  EXPECT_THAT(item.tokens, ElementsAre(13, 14));
  EXPECT_TRUE(item.sample);
  EXPECT_EQ(item.sampling.seed, 9u);
  EXPECT_THAT(item.history, IsEmpty());
  EXPECT_EQ(item.sample_step, 0);
  EXPECT_EQ(item.top_logprobs, 3);
  EXPECT_EQ(*sequence.Commit(Sampled(20), sink_), std::nullopt);
  EXPECT_TRUE(sequence.prompt_computed());

  item = sequence.Plan(1);
  EXPECT_EQ(item.begin, 5);
  EXPECT_THAT(item.tokens, ElementsAre(20));
  EXPECT_TRUE(item.sample);
  EXPECT_THAT(item.history, ElementsAre(20));
  EXPECT_EQ(item.sample_step, 1);
  EXPECT_EQ(*sequence.Commit(Sampled(21), sink_), FinishReason::kLength);

  EXPECT_EQ(sequence.usage(), (Usage{.prompt_tokens = 5, .generated_tokens = 2}));
  EXPECT_THAT(record_->events(),
              ElementsAre("progress 3/5", "progress 5/5", "token 20", "token 21"));
}

TEST_F(SequenceTest, StopTokenEndsAndIsNotReported) {
  GenerateSequence sequence(
      {.prompt = {1}, .max_new_tokens = 9, .stop_tokens = {50, 60}});
  sequence.Plan(1);
  EXPECT_EQ(*sequence.Commit(Sampled(5), sink_), std::nullopt);
  sequence.Plan(1);
  EXPECT_EQ(*sequence.Commit(Sampled(60), sink_), FinishReason::kStopToken);
  EXPECT_EQ(sequence.usage(), (Usage{.prompt_tokens = 1, .generated_tokens = 1}));
  EXPECT_THAT(record_->events(), ElementsAre("progress 1/1", "token 5"));
}

TEST_F(SequenceTest, HistoryHasThePromptWhenItIsPenalized) {
  GenerateSequence sequence(
      {.prompt = {1, 2}, .max_new_tokens = 9, .sampling = {.penalize_prompt = true}});
  EXPECT_THAT(sequence.Plan(2).history, ElementsAre(1, 2));
  ASSERT_TRUE(sequence.Commit(Sampled(3), sink_).ok());
  EXPECT_THAT(sequence.Plan(1).history, ElementsAre(1, 2, 3));
}

TEST_F(SequenceTest, ScoreAsksForTheNextTokensFromFirstOn) {
  ScoreSequence sequence({.tokens = {10, 11, 12, 13, 14, 15, 16},
                          .first = 3,
                          .top_logprobs = 2,
                          .ranks = true});
  StepItem item = sequence.Plan(2);  // predicts 11 and 12: context only
  EXPECT_THAT(item.tokens, ElementsAre(10, 11));
  EXPECT_THAT(item.targets, IsEmpty());
  EXPECT_FALSE(item.sample);
  EXPECT_EQ(*sequence.Commit({}, sink_), std::nullopt);

  item = sequence.Plan(3);
  EXPECT_EQ(item.begin, 2);
  EXPECT_THAT(item.tokens, ElementsAre(12, 13, 14));
  EXPECT_THAT(item.targets, ElementsAre(13, 14, 15));
  EXPECT_TRUE(item.ranks);
  EXPECT_EQ(item.top_logprobs, 2);
  EXPECT_EQ(*sequence.Commit(Scored({13, 14, 15}), sink_), std::nullopt);

  item = sequence.Plan(1);
  EXPECT_THAT(item.tokens, ElementsAre(15));
  EXPECT_THAT(item.targets, ElementsAre(16));
  EXPECT_EQ(*sequence.Commit(Scored({16}), sink_), FinishReason::kScored);
  EXPECT_EQ(sequence.usage(), (Usage{.prompt_tokens = 6}));
  EXPECT_THAT(record_->events(),
              ElementsAre("progress 2/6", "progress 5/6", "scores 13 14 15",
                          "progress 6/6", "scores 16"));
}

TEST_F(SequenceTest, FirstInsideAChunkSkipsThePositionsBefore) {
  ScoreSequence sequence({.tokens = {10, 11, 12, 13}, .first = 2});
  EXPECT_THAT(sequence.Plan(3).targets, ElementsAre(kNoTarget, 12, 13));
}

TEST_F(SequenceTest, WrongResultsAreInternalErrors) {
  GenerateSequence whole({.prompt = {1}, .max_new_tokens = 1});
  whole.Plan(1);
  EXPECT_EQ(whole.Commit({}, sink_).status(),
            absl::InternalError("the model runner sampled no token"));
  GenerateSequence part({.prompt = {1, 2}, .max_new_tokens = 1});
  part.Plan(1);
  EXPECT_EQ(part.Commit(Sampled(1), sink_).status(),
            absl::InternalError("the model runner sampled a token unasked"));
  ScoreSequence score({.tokens = {1, 2, 3}});
  score.Plan(2);
  EXPECT_EQ(score.Commit(Scored({2}), sink_).status(),
            absl::InternalError("the model runner gave 1 scores; 2 were asked for"));
  EXPECT_THAT(record_->events(), IsEmpty());
}

// After a preemption one item may read the prompt, the answer so far and go on.
TEST_F(SequenceTest, WhatIsComputedAgainIsNotToldAgain) {
  GenerateSequence sequence({.prompt = {10, 11, 12}, .max_new_tokens = 3});
  sequence.Plan(3);
  ASSERT_TRUE(sequence.Commit(Sampled(20), sink_).ok());
  sequence.StartAt(0);
  const StepItem item = sequence.Plan(4);
  EXPECT_THAT(item.tokens, ElementsAre(10, 11, 12, 20));
  EXPECT_TRUE(item.sample);
  EXPECT_FALSE(item.last_chunk);
  EXPECT_EQ(item.sample_step, 1);
  EXPECT_THAT(item.history, ElementsAre(20));
  ASSERT_TRUE(sequence.Commit(Sampled(21), sink_).ok());
  EXPECT_THAT(record_->events(), ElementsAre("progress 3/3", "token 20", "token 21"));
  EXPECT_EQ(sequence.usage(), (Usage{.prompt_tokens = 3, .generated_tokens = 2}));
  EXPECT_EQ(sequence.recomputed_tokens(), 3);
}

TEST_F(SequenceTest, AScoreGoesOnBehindWhatItToldBefore) {
  ScoreSequence sequence({.tokens = {10, 11, 12, 13, 14, 15}, .first = 2});
  sequence.Plan(3);
  ASSERT_TRUE(sequence.Commit(Scored({12, 13}), sink_).ok());
  EXPECT_EQ(sequence.cacheable_tokens(), 3);
  sequence.StartAt(1);
  StepItem item = sequence.Plan(2);
  EXPECT_EQ(item.begin, 1);
  EXPECT_THAT(item.targets, IsEmpty());
  ASSERT_TRUE(sequence.Commit({}, sink_).ok());
  item = sequence.Plan(2);
  EXPECT_THAT(item.targets, ElementsAre(14, 15));
  EXPECT_EQ(*sequence.Commit(Scored({14, 15}), sink_), FinishReason::kScored);
  EXPECT_THAT(record_->events(), ElementsAre("progress 3/5", "scores 12 13",
                                             "progress 5/5", "scores 14 15"));
  EXPECT_EQ(sequence.usage(), (Usage{.prompt_tokens = 5}));
  EXPECT_EQ(sequence.recomputed_tokens(), 2);
}

TEST_F(SequenceTest, CachedTokensCountOnceHoweverOftenItStarts) {
  GenerateSequence sequence({.prompt = {10, 11, 12, 13}, .max_new_tokens = 3});
  EXPECT_EQ(sequence.cacheable_tokens(), 3);
  sequence.StartAt(2);
  sequence.Plan(1);
  ASSERT_TRUE(sequence.Commit({}, sink_).ok());
  sequence.StartAt(0);
  sequence.StartAt(3);
  EXPECT_EQ(sequence.usage(), (Usage{.prompt_tokens = 3, .cached_tokens = 2}));
  EXPECT_THAT(record_->events(), ElementsAre("progress 3/4"));
}

TEST(RequestTest, UsageAndTimingsAddUp) {
  Usage usage{.prompt_tokens = 1, .cached_tokens = 2, .generated_tokens = 3};
  usage += {.prompt_tokens = 10, .cached_tokens = 20, .generated_tokens = 30};
  EXPECT_EQ(usage,
            (Usage{.prompt_tokens = 11, .cached_tokens = 22, .generated_tokens = 33}));
  Timings timings{.queue = absl::Seconds(1), .prefill = absl::Seconds(2)};
  timings += {.queue = absl::Seconds(10), .decode = absl::Seconds(30)};
  EXPECT_EQ(timings.queue, absl::Seconds(11));
  EXPECT_EQ(timings.prefill, absl::Seconds(2));
  EXPECT_EQ(timings.decode, absl::Seconds(30));
}

}  // namespace
}  // namespace quire

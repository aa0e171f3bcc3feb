#include "core/schedule/scheduler.h"

#include <algorithm>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/core/schedule/scheduler_fixture.h"

namespace quire {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

// ---- A step

TEST_F(SchedulerTest, NothingToDoIsAnEmptyPlan) { EXPECT_EQ(Plan(), StepPlan{}); }

TEST_F(SchedulerTest, DecodesComeFirstThenBegunPromptsThenNewOnes) {
  Add(Waiting(1, 10, 1));
  Add(Begun(2, 40, 20, 2));
  Add(Decoding(3, 20, 25, 3));
  Add(Decoding(4, 20, 22, 2));
  EXPECT_THAT(Plan().preempt, IsEmpty());
  EXPECT_THAT(Plan().items,
              ElementsAre(Item(4, 1, 2), Item(3, 1, 2), Item(2, 20, 3), Start(1, 10, 1)));
}

TEST_F(SchedulerTest, TheRowBudgetIsWhatDecodesLeave) {
  options_.step_tokens = 12;
  Add(Decoding(1, 20, 25));
  Add(Decoding(2, 20, 25));
  Add(Begun(3, 100, 50));
  EXPECT_THAT(Plan().items, ElementsAre(Item(1, 1, 2), Item(2, 1, 2), Item(3, 10, 7)));
}

TEST_F(SchedulerTest, OneThatIsReadAgainIsAPromptUntilItsAnswerIsComputedToo) {
  ScheduledRequest& request = Add(Begun(1, 20, 20));
  request.known_tokens = 30;
  request.held_blocks = 2;
  EXPECT_THAT(Plan().items, ElementsAre(Item(1, 10, 2)));
}

TEST_F(SchedulerTest, APromptsLastTokenIsNoDecode) {
  // A decode would be read whatever it costs; both rows are within the time.
  state_.cost = CostOfRows();
  options_.step_ns = 11 * kMs;
  options_.min_chunk_tokens = 1;
  Add(Begun(1, 20, 19, 1));
  Add(Begun(2, 20, 19, 2));
  EXPECT_THAT(Plan().items, ElementsAre(Item(1, 1, 2)));
}

TEST_F(SchedulerTest, MaxRunningIsAPlaceForEach) {
  options_.max_running = 3;
  Add(Decoding(1, 20, 25));
  for (uint64_t id = 2; id < 6; ++id) Add(Waiting(id, 5, static_cast<int64_t>(id)));
  EXPECT_THAT(Plan().items, ElementsAre(Item(1, 1, 2), Start(2, 5, 1), Start(3, 5, 1)));
}

TEST_F(SchedulerTest, WhatIsFoundInThePrefixCacheIsNotReadAgain) {
  Add(Waiting(1, 40)).computed_tokens = 32;
  EXPECT_THAT(Plan().items, ElementsAre(Start(1, 8, 3)));
}

TEST_F(SchedulerTest, TheOrderOfTheStateDoesNotMatter) {
  Add(Decoding(1, 20, 25, 7));
  Add(Decoding(2, 20, 25, 6));
  Add(Begun(3, 30, 5, 4));
  Add(Begun(4, 30, 5, 3));
  Add(Waiting(5, 10, 2));
  Add(Waiting(6, 10, 1));
  const StepPlan plan = Plan();
  EXPECT_THAT(Ids(plan), ElementsAre(2, 1, 4, 3, 6, 5));
  std::reverse(state_.requests.begin(), state_.requests.end());
  EXPECT_EQ(Plan(), plan);
}

// ---- Time

TEST_F(SchedulerTest, AStepOfPromptsTakesStepNs) {
  state_.cost = CostOfRows();
  options_.step_ns = 30 * kMs;
  Add(Begun(1, 15, 0, 1));
  Add(Begun(2, 15, 0, 2));
  EXPECT_THAT(Plan().items, ElementsAre(Item(1, 15, 1), Item(2, 5, 1)));
}

TEST_F(SchedulerTest, BesideDecodesAStepIsStretchedByTheirOwnTime) {
  state_.cost = CostOfRows();
  options_.step_ns = 1000 * kMs;
  Add(Decoding(1, 20, 25));
  Add(Decoding(2, 20, 25));
  Add(Begun(3, 50, 0));
  // 12 ms alone; 180 % are 21.6.
  EXPECT_THAT(Plan().items, ElementsAre(Item(1, 1, 2), Item(2, 1, 2), Item(3, 9, 4)));
  options_.decode_stretch_percent = 300;
  EXPECT_EQ(Plan().items.back().rows, 24);
}

TEST_F(SchedulerTest, TheFirstPromptGetsItsLeastChunkWhateverItCosts) {
  state_.cost = {.row_ps = 1000 * kMs, .prefill_column_ps = 1000 * kMs};
  Add(Decoding(1, 20, 25));
  Add(Begun(2, 50, 10, 1));
  Add(Begun(3, 50, 10, 2));
  EXPECT_THAT(Plan().items, ElementsAre(Item(1, 1, 2), Item(2, 4, 4)));
  state_.requests[1].computed_tokens = 48;  // it wants no more than two
  EXPECT_THAT(Plan().items, ElementsAre(Item(1, 1, 2), Item(2, 2, 4)));
  options_.step_tokens = 2;  // there is but one
  options_.max_running = 2;
  EXPECT_THAT(Plan().items, ElementsAre(Item(1, 1, 2), Item(2, 1, 4)));
}

TEST_F(SchedulerTest, TheLeastChunkIsForTheFirstStartTooIfNothingHasBegun) {
  state_.cost = CostOfRows();
  options_.step_ns = 1;
  Add(Waiting(1, 50, 1));
  Add(Waiting(2, 50, 2));
  EXPECT_THAT(Plan().items, ElementsAre(Start(1, 4, 4)));
}

TEST_F(SchedulerTest, SparseRowsCountWithTheirOwnPrice) {
  state_.cost = {.prefill_column_ps = 1000, .sparse_row_ps = 5000};
  options_.step_ns = 100;
  options_.min_chunk_tokens = 1;
  Add(Begun(1, 100, 50)).sparse_from = 53;  // two rows of 51 and 52 tokens: 103 ns
  EXPECT_EQ(Plan().items.front().rows, 1);
  options_.step_ns = 113;
  EXPECT_EQ(Plan().items.front().rows, 4);
}

// ---- Order

TEST_F(SchedulerTest, LowerClassesStartFirst) {
  options_.step_tokens = 8;
  Add(Waiting(1, 8, 0)).priority = 3;
  Add(Waiting(2, 8, 0)).priority = 1;
  EXPECT_THAT(Ids(Plan()), ElementsAre(2));
}

TEST_F(SchedulerTest, OfAClassTheFirstAcceptedStartsFirst) {
  options_.step_tokens = 8;
  Add(Waiting(3, 8, 5));
  Add(Waiting(2, 8, 4));
  Add(Waiting(1, 8, 4));
  EXPECT_THAT(Ids(Plan()), ElementsAre(1));
}

TEST_F(SchedulerTest, WaitingBettersTheClass) {
  options_.step_tokens = 8;
  Add(Waiting(1, 8, 0)).priority = 2;
  Add(Waiting(2, 8, 1500)).priority = 1;
  state_.now_ns = 999 * kMs;
  EXPECT_EQ(EffectivePriority(options_, state_.requests[0], state_.now_ns), 2);
  EXPECT_THAT(Ids(Plan()), ElementsAre(2));
  state_.now_ns = 1500 * kMs;
  EXPECT_EQ(EffectivePriority(options_, state_.requests[0], state_.now_ns), 1);
  EXPECT_THAT(Ids(Plan()), ElementsAre(1));  // as good, and accepted before
}

TEST_F(SchedulerTest, NoClassIsBetterThanTheBest) {
  ScheduledRequest request = Waiting(1, 8, 0);
  request.priority = 4;
  EXPECT_EQ(EffectivePriority(options_, request, 3999 * kMs), 1);
  EXPECT_EQ(EffectivePriority(options_, request, 4000 * kMs), kBestPriority);
  EXPECT_EQ(EffectivePriority(options_, request, 999'000 * kMs), kBestPriority);
  EXPECT_EQ(EffectivePriority(options_, request, -5 * kMs), 4);  // a clock that went back
}

TEST_F(SchedulerTest, OverdueOnesStartBeforeBetterClassesAndPoorerTenants) {
  options_.step_tokens = 8;
  Add(Waiting(1, 8, 5000)).priority = 0;
  Add(Waiting(2, 8, 20)).priority = 4;
  state_.requests[1].tenant = 1;
  Add(Waiting(3, 8, 10)).priority = 4;
  state_.requests[2].tenant = 1;
  state_.served_tokens = {0, 1'000'000, 0};
  state_.now_ns = 5010 * kMs;
  EXPECT_FALSE(IsOverdue(options_, state_.requests[2], state_.now_ns));
  EXPECT_THAT(Ids(Plan()), ElementsAre(1));
  state_.now_ns = 5021 * kMs;
  EXPECT_TRUE(IsOverdue(options_, state_.requests[1], state_.now_ns));
  EXPECT_THAT(Ids(Plan()), ElementsAre(3));  // the oldest
}

TEST_F(SchedulerTest, OfAClassTheTenantThatWasServedLeastStartsFirst) {
  options_.step_tokens = 8;
  Add(Waiting(1, 8, 1)).tenant = 1;
  Add(Waiting(2, 8, 2)).tenant = 2;
  state_.served_tokens = {0, 101, 100};
  EXPECT_THAT(Ids(Plan()), ElementsAre(2));
  state_.served_tokens = {0, 100, 100};
  EXPECT_THAT(Ids(Plan()), ElementsAre(1));
}

TEST_F(SchedulerTest, StartsOfOneStepAlternateBetweenTenants) {
  for (uint64_t id = 1; id <= 4; ++id) Add(Waiting(id, 10, 1)).tenant = 0;
  for (uint64_t id = 5; id <= 8; ++id) Add(Waiting(id, 10, 2)).tenant = 1;
  state_.served_tokens = {15, 0, 0};
  EXPECT_THAT(Ids(Plan()), ElementsAre(5, 6, 1, 7, 2, 8, 3));
}

TEST_F(SchedulerTest, RowsOfThePlanAreChargedBeforeStarts) {
  options_.step_tokens = 20;
  Add(Begun(1, 16, 0)).tenant = 0;
  Add(Waiting(2, 10, 1)).tenant = 0;
  Add(Waiting(3, 10, 2)).tenant = 1;
  state_.served_tokens = {0, 10, 0};
  EXPECT_THAT(Plan().items, ElementsAre(Item(1, 16, 2), Start(3, 4, 1)));
}

TEST_F(SchedulerTest, BegunPromptsHaveTheirPlaceInTheSameOrder) {
  options_.step_tokens = 8;
  Add(Begun(1, 100, 0, 1)).priority = 3;
  Add(Begun(2, 100, 0, 2)).priority = 1;
  EXPECT_THAT(Ids(Plan()), ElementsAre(2));
  state_.now_ns = 5002 * kMs;
  EXPECT_THAT(Ids(Plan()), ElementsAre(1));
}

// ---- Long prompts

TEST_F(SchedulerTest, AtMostSoManyLongPromptsAreBegunAtATime) {
  options_.step_tokens = 64;
  Add(Waiting(1, 200, 1));
  Add(Waiting(2, 200, 2));
  Add(Waiting(3, 200, 3));
  options_.step_tokens = 390;
  EXPECT_THAT(Plan().items, ElementsAre(Start(1, 200, 13), Start(2, 190, 13)));
  options_.step_tokens = 600;
  EXPECT_THAT(Ids(Plan()), ElementsAre(1, 2));
  options_.max_long_prefills = 3;
  EXPECT_THAT(Ids(Plan()), ElementsAre(1, 2, 3));
}

TEST_F(SchedulerTest, ShortOnesPassLongOnesThatWaitForTheirPlace) {
  options_.max_long_prefills = 1;
  Add(Begun(1, 400, 100, 1));
  Add(Waiting(2, 200, 2));
  Add(Waiting(3, 10, 3));
  EXPECT_THAT(Plan().items, ElementsAre(Start(3, 10, 1), Item(1, 54, 26)));
}

TEST_F(SchedulerTest, ALongOneThatDecodesTakesNoPlaceOfALongPrompt) {
  options_.max_long_prefills = 1;
  Add(Decoding(1, 200, 205, 1));
  Add(Waiting(2, 200, 2));
  EXPECT_THAT(Ids(Plan()), ElementsAre(1, 2));
}

TEST_F(SchedulerTest, WhileShortOnesTakeRowsLongOnesShareAQuarter) {
  Add(Begun(1, 300, 100, 1));
  Add(Begun(2, 300, 100, 2));
  Add(Begun(3, 199, 0, 3));
  EXPECT_THAT(Plan().items, ElementsAre(Item(3, 48, 13), Item(1, 16, 19)));
}

TEST_F(SchedulerTest, WhatShortOnesLeaveIsForTheLongOnes) {
  Add(Begun(1, 300, 90, 1));
  Add(Begun(2, 300, 100, 2));
  Add(Begun(3, 20, 0, 3));
  EXPECT_THAT(Plan().items, ElementsAre(Item(3, 20, 2), Item(1, 44, 19)));
}

TEST_F(SchedulerTest, APromptIsLongByWhatIsLeftToReadWhenItBegins) {
  options_.max_long_prefills = 1;
  Add(Begun(1, 300, 276, 2));  // 24 left, less than an eighth of 200: short again
  Add(Begun(2, 300, 275, 1));  // 25 left
  ScheduledRequest& cached = Add(Waiting(3, 300, 3));
  cached.computed_tokens = 150;
  EXPECT_THAT(Plan().items,
              ElementsAre(Item(1, 24, 19), Start(3, 24, 19), Item(2, 16, 19)));
}

TEST_F(SchedulerTest, AlonelyLongOneTakesAll) {
  Add(Begun(1, 300, 100, 1));
  EXPECT_THAT(Plan().items, ElementsAre(Item(1, 64, 19)));
}

TEST_F(SchedulerTest, EachShortPromptInLineMakesAMixedStepLonger) {
  state_.cost = CostOfRows();
  options_.min_chunk_tokens = 1;
  Add(Decoding(1, 20, 25));  // 11 ms; 8.8 for one prompt, 17.6 for two
  Add(Begun(2, 100, 0, 1));
  EXPECT_THAT(Plan().items, ElementsAre(Item(1, 1, 2), Item(2, 8, 7)));
  Add(Begun(3, 100, 0, 2));
  EXPECT_THAT(Plan().items, ElementsAre(Item(1, 1, 2), Item(2, 17, 7)));
  options_.step_ns = 21 * kMs;  // no longer than a step without decodes
  EXPECT_THAT(Plan().items, ElementsAre(Item(1, 1, 2), Item(2, 10, 7)));
}

TEST_F(SchedulerTest, LongOnesShareAQuarterOfTheTimeBesideTheDecodes) {
  state_.cost = CostOfRows();
  options_.decode_stretch_percent = 300;
  Add(Decoding(1, 20, 25));  // 11 ms; 22 for prompts
  Add(Begun(2, 300, 100, 3));
  Add(Begun(3, 100, 0, 2));
  EXPECT_THAT(Plan().items, ElementsAre(Item(1, 1, 2), Item(3, 16, 7), Item(2, 6, 19)));
}

TEST_F(SchedulerTest, ANewShortOneTakesRowsBeforeABegunLongOne) {
  state_.cost = CostOfRows();
  Add(Decoding(1, 20, 25));  // 11 ms; 8.8 for prompts
  Add(Begun(2, 300, 100, 1));
  Add(Waiting(3, 10, 2));
  EXPECT_THAT(Plan().items, ElementsAre(Item(1, 1, 2), Start(3, 6, 1), Item(2, 4, 19)));
}

TEST_F(SchedulerTest, IfTheFirstInLineIsLongTheFirstShortOneGetsItsLeastChunkToo) {
  state_.cost = {.row_ps = 1000 * kMs, .prefill_column_ps = 1000 * kMs};
  Add(Decoding(1, 20, 25));
  Add(Begun(2, 300, 100, 1));
  Add(Begun(3, 300, 100, 2));
  Add(Begun(4, 50, 0, 3));
  Add(Begun(5, 50, 0, 4));
  EXPECT_THAT(Plan().items, ElementsAre(Item(1, 1, 2), Item(4, 4, 4), Item(2, 4, 19)));
  state_.requests[3].accepted_ns = 0;  // now a short one is first
  EXPECT_THAT(Plan().items, ElementsAre(Item(1, 1, 2), Item(4, 4, 4)));
}

TEST_F(SchedulerTest, ALongOneThatIsFirstKeepsItsLeastChunkOfFewRows) {
  options_.step_tokens = options_.max_running = 10;
  options_.min_chunk_tokens = 8;
  Add(Begun(1, 300, 100, 1));
  Add(Begun(2, 100, 0, 2));
  EXPECT_THAT(Plan().items, ElementsAre(Item(2, 2, 7), Item(1, 8, 19)));
}

TEST_F(SchedulerTest, TheQuarterOfLongOnesLeavesTheFirstInLineItsLeastChunk) {
  options_.step_tokens = options_.max_running = 10;
  options_.min_chunk_tokens = 9;
  Add(Begun(1, 300, 100, 2));
  Add(Begun(2, 100, 0, 1));
  EXPECT_THAT(Plan().items, ElementsAre(Item(2, 9, 7), Item(1, 1, 19)));
}

// ---- Read whole

TEST_F(SchedulerTest, AWholePromptPassesTheBudget) {
  state_.cost = CostOfRows();
  options_.step_ns = 20 * kMs;
  Add(Waiting(1, 150, 1)).whole = true;
  Add(Waiting(2, 10, 2));
  EXPECT_THAT(Plan().items, ElementsAre(Start(1, 150, 10)));
}

TEST_F(SchedulerTest, AWholePromptThatFitsLeavesTheRest) {
  Add(Waiting(1, 30, 1)).whole = true;
  Add(Waiting(2, 50, 2));
  EXPECT_THAT(Plan().items, ElementsAre(Start(1, 30, 2), Start(2, 34, 4)));
}

TEST_F(SchedulerTest, AWholePromptWaitsUntilItIsTheFirstAndHoldsBackThoseBehindIt) {
  Add(Begun(1, 50, 40, 3));
  Add(Waiting(2, 30, 1)).whole = true;
  Add(Waiting(3, 10, 2));
  EXPECT_THAT(Plan().items, ElementsAre(Item(1, 10, 4)));
}

TEST_F(SchedulerTest, AWholeShortPromptDoesNotWaitForLongOnes) {
  Add(Begun(1, 300, 100, 1));
  Add(Waiting(2, 150, 2)).whole = true;
  EXPECT_THAT(Plan().items, ElementsAre(Start(2, 150, 10), Item(1, 16, 19)));
}

TEST_F(SchedulerTest, AWholeLongPromptWaitsForLongOnesAndLetsNoOtherBegin) {
  options_.max_long_prefills = 3;
  Add(Begun(1, 300, 100, 1));
  Add(Waiting(2, 250, 2)).whole = true;
  Add(Waiting(3, 250, 3));
  Add(Waiting(4, 10, 4));
  EXPECT_THAT(Plan().items, ElementsAre(Start(4, 10, 1), Item(1, 54, 19)));
  state_.requests.erase(state_.requests.begin());
  EXPECT_THAT(Plan().items, ElementsAre(Start(4, 10, 1), Start(2, 250, 16)));
}

TEST_F(SchedulerTest, OfAWholeOneThatIsReadAgainOnlyThePromptIsOneItem) {
  ScheduledRequest& request = Add(Waiting(1, 150, 1));
  request.whole = true;
  request.known_tokens = 180;
  EXPECT_THAT(Plan().items, ElementsAre(Start(1, 150, 12)));
  state_.requests[0] = Begun(1, 150, 150, 1);
  state_.requests[0].whole = true;
  state_.requests[0].known_tokens = 250;
  EXPECT_EQ(Plan().items.front().rows, 64);
}

// ---- Options

TEST(ScheduleOptionsTest, DefaultsAreValidWithACache) {
  ScheduleOptions options;
  options.kv.num_blocks = 10;
  EXPECT_TRUE(options.Validate().ok());
}

TEST(ScheduleOptionsTest, RefusesWhatCannotWork) {
  const struct {
    void (*change)(ScheduleOptions&);
    std::string message;
  } cases[] = {
      {[](auto& o) { o.max_running = 0; }, "max_running is 0; it must be at least 1"},
      {[](auto& o) { o.step_tokens = 255; },
       "step_tokens is 255; it must be at least 256"},
      {[](auto& o) { o.long_prompt_tokens = 0; },
       "long_prompt_tokens is 0; it must be at least 1"},
      {[](auto& o) { o.max_long_prefills = 0; },
       "max_long_prefills is 0; it must be at least 1"},
      {[](auto& o) { o.step_ns = -1; }, "step_ns is -1; it must be at least 0"},
      {[](auto& o) { o.decode_stretch_percent = 100; },
       "decode_stretch_percent is 100; it must be at least 101"},
      {[](auto& o) { o.min_chunk_tokens = 0; },
       "min_chunk_tokens is 0; it must be at least 1"},
      {[](auto& o) { o.aging_ns = 0; }, "aging_ns is 0; it must be at least 1"},
      {[](auto& o) { o.overdue_ns = 0; }, "overdue_ns is 0; it must be at least 1"},
      {[](auto& o) { o.spare_blocks = -1; }, "spare_blocks is -1; it must be at least 0"},
      {[](auto& o) { o.kv.num_blocks = 0; }, "kv.num_blocks is 0; it must be at least 1"},
      {[](auto& o) { o.kv.tokens_per_block = 0; },
       "kv.tokens_per_block is 0; it must be at least 1"},
  };
  for (const auto& [change, message] : cases) {
    ScheduleOptions options;
    options.kv.num_blocks = 10;
    change(options);
    EXPECT_EQ(options.Validate(), absl::InvalidArgumentError(message));
  }
}

}  // namespace
}  // namespace quire

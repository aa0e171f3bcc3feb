#include "core/schedule/scheduler.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/core/schedule/scheduler_fixture.h"

namespace quire {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::UnorderedElementsAre;

// ---- Memory

TEST_F(SchedulerTest, AStartNeedsBlocksForItsTokensAndOneMore) {
  state_.free_blocks = 4;
  Add(Waiting(1, 63, 1));
  EXPECT_THAT(Plan().items, ElementsAre(Start(1, 63, 4)));
  state_.requests[0] = Waiting(1, 64, 1);
  EXPECT_THAT(Plan().items, IsEmpty());
  state_.requests[0].max_tokens = 64;  // there is no more
  EXPECT_THAT(Plan().items, ElementsAre(Start(1, 64, 4)));
}

TEST_F(SchedulerTest, APinnedStartNeedsAllItMayEverNeed) {
  state_.free_blocks = 8;
  ScheduledRequest& request = Add(Waiting(1, 30, 1));
  request.pinned = true;
  request.max_tokens = 128;
  EXPECT_THAT(Plan().items, ElementsAre(Start(1, 30, 8)));
  state_.requests[0].max_tokens = 129;
  EXPECT_THAT(Plan().items, IsEmpty());
}

TEST_F(SchedulerTest, AStartLeavesSpareBlocksUnlessNothingRuns) {
  state_.free_blocks = 6;
  Add(Waiting(1, 63, 1));  // 4 blocks
  EXPECT_THAT(Ids(Plan()), ElementsAre(1));
  Add(Decoding(2, 20, 25));
  EXPECT_THAT(Ids(Plan()), ElementsAre(2, 1));
  state_.free_blocks = 5;
  EXPECT_THAT(Ids(Plan()), ElementsAre(2));
  state_.requests.pop_back();
  EXPECT_THAT(Ids(Plan()), ElementsAre(1));
}

TEST_F(SchedulerTest, WhatTheFirstStartTakesTheSecondDoesNotHave) {
  state_.free_blocks = 7;
  Add(Waiting(1, 31, 1));  // 2 blocks
  Add(Waiting(2, 31, 2));
  Add(Waiting(3, 15, 3));
  EXPECT_THAT(Ids(Plan()), ElementsAre(1, 2, 3));
  state_.free_blocks = 6;
  EXPECT_THAT(Ids(Plan()), ElementsAre(1, 2));
}

TEST_F(SchedulerTest, GrowthOfDecodesComesBeforeStarts) {
  state_.free_blocks = 4;
  Add(Decoding(1, 20, 33));  // its row is the first of a third block
  Add(Waiting(2, 15, 2));
  EXPECT_THAT(Plan().items, ElementsAre(Item(1, 1, 3), Start(2, 15, 1)));
  state_.free_blocks = 3;
  EXPECT_THAT(Plan().items, ElementsAre(Item(1, 1, 3)));
}

TEST_F(SchedulerTest, SharedBlocksNeedNotBeFree) {
  state_.free_blocks = 4;
  Add(Decoding(1, 60, 65)).held_blocks = 5;
  Add(Waiting(2, 79, 2)).shared_blocks = 3;  // 5 blocks
  state_.requests[1].computed_tokens = 48;
  EXPECT_THAT(Plan().items, ElementsAre(Item(1, 1, 5), Start(2, 31, 5)));
  state_.requests[1].shared_blocks = 2;
  EXPECT_THAT(Plan().items, ElementsAre(Item(1, 1, 5)));
}

TEST_F(SchedulerTest, WhoLacksMemoryIsNotPassed) {
  state_.free_blocks = 5;
  Add(Decoding(1, 20, 25));
  Add(Waiting(2, 60, 1));  // 4 blocks and 2 spare ones
  Add(Waiting(3, 5, 2));
  EXPECT_THAT(Ids(Plan()), ElementsAre(1));
}

TEST_F(SchedulerTest, ALongOneThatLacksMemoryIsNotPassedEither) {
  state_.free_blocks = 12;
  Add(Decoding(1, 20, 25));
  Add(Waiting(2, 200, 1));  // 13 blocks
  Add(Waiting(3, 5, 2));
  EXPECT_THAT(Ids(Plan()), ElementsAre(1));
}

TEST_F(SchedulerTest, ALongOneThatStartsButGetsNoRowsKeepsItsBlocksFromOthers) {
  options_.step_tokens = 20;
  state_.free_blocks = 27;
  Add(Begun(1, 300, 100, 1));
  Add(Waiting(2, 300, 2));  // 19 blocks: 8 are left
  Add(Waiting(3, 95, 3));   // 6 blocks and 2 spare ones
  EXPECT_THAT(Plan().items, ElementsAre(Start(3, 15, 6), Item(1, 5, 19)));
  state_.free_blocks = 26;
  EXPECT_THAT(Plan().items, ElementsAre(Item(1, 20, 19)));
}

// ---- Preemption

TEST_F(SchedulerTest, TheLastInOrderIsPreemptedWhenADecodeCannotGrow) {
  state_.free_blocks = 0;
  Add(Decoding(1, 20, 33, 1));
  Add(Decoding(2, 20, 25, 3));
  Add(Decoding(3, 20, 25, 2));
  const StepPlan plan = Plan();
  EXPECT_THAT(plan.preempt, ElementsAre(Id(2)));
  EXPECT_THAT(plan.items, ElementsAre(Item(1, 1, 3), Item(3, 1, 2)));
}

TEST_F(SchedulerTest, TheWorstClassIsPreemptedThenTheMostServedTenant) {
  state_.free_blocks = 0;
  Add(Decoding(1, 20, 33, 9));
  Add(Decoding(2, 20, 25, 1)).tenant = 1;
  Add(Decoding(3, 20, 25, 5)).priority = 3;
  state_.served_tokens = {10, 20, 0};
  EXPECT_THAT(Plan().preempt, ElementsAre(Id(3)));
  state_.requests[2].priority = 2;
  EXPECT_THAT(Plan().preempt, ElementsAre(Id(2)));
  state_.served_tokens = {20, 20, 0};  // the latest, which is the one that wants to grow
  EXPECT_THAT(Plan().preempt, ElementsAre(Id(1)));
}

TEST_F(SchedulerTest, AnOverdueOneIsPreemptedLast) {
  state_.free_blocks = 0;
  Add(Decoding(1, 20, 25, 1)).priority = 4;
  Add(Decoding(2, 20, 33, 2999)).priority = 0;
  state_.now_ns = 3000 * kMs;
  EXPECT_THAT(Plan().preempt, ElementsAre(Id(1)));
  state_.now_ns = 5002 * kMs;
  EXPECT_THAT(Plan().preempt, ElementsAre(Id(2)));
}

TEST_F(SchedulerTest, OneThatWantsToGrowIsPreemptedItselfIfItIsTheLast) {
  state_.free_blocks = 0;
  Add(Decoding(1, 20, 25, 1));
  Add(Decoding(2, 20, 33, 2));
  const StepPlan plan = Plan();
  EXPECT_THAT(plan.preempt, ElementsAre(Id(2)));
  EXPECT_THAT(plan.items, ElementsAre(Item(1, 1, 2)));
}

TEST_F(SchedulerTest, BegunPromptsArePreemptedToo) {
  state_.free_blocks = 0;
  Add(Decoding(1, 20, 33, 1));
  Add(Begun(2, 300, 100, 2));
  const StepPlan plan = Plan();
  EXPECT_THAT(plan.preempt, ElementsAre(Id(2)));
  EXPECT_THAT(plan.items, ElementsAre(Item(1, 1, 3)));
}

TEST_F(SchedulerTest, PinnedOnesAreNeverPreempted) {
  state_.free_blocks = 0;
  Add(Decoding(1, 20, 33, 1));
  Add(Decoding(2, 20, 25, 2));
  Add(Decoding(3, 20, 25, 3)).pinned = true;
  state_.requests[2].held_blocks = 8;
  const StepPlan plan = Plan();
  EXPECT_THAT(plan.preempt, ElementsAre(Id(2)));
  EXPECT_THAT(plan.items, ElementsAre(Item(1, 1, 3), Item(3, 1, 8)));
}

TEST_F(SchedulerTest, AsManyAsNeededArePreempted) {
  state_.free_blocks = 1;
  Add(Decoding(1, 20, 33, 1));
  Add(Decoding(2, 20, 33, 2));
  Add(Decoding(3, 20, 33, 3));
  Add(Decoding(4, 20, 20, 4)).freed_blocks = 1;
  Add(Decoding(5, 20, 20, 5)).freed_blocks = 0;  // shares all: given up in vain
  StepPlan plan = Plan();
  EXPECT_THAT(plan.preempt, ElementsAre(Id(4), Id(3)));
  EXPECT_THAT(Ids(plan), ElementsAre(1, 2, 5));
  state_.free_blocks = 0;
  plan = Plan();
  EXPECT_THAT(plan.preempt, ElementsAre(Id(4), Id(3)));
  EXPECT_THAT(Ids(plan), ElementsAre(1, 2, 5));
}

TEST_F(SchedulerTest, OnesBeforeTheGrowerAreNotPreemptedForIt) {
  state_.free_blocks = 0;
  Add(Decoding(1, 20, 25, 1));
  Add(Decoding(2, 20, 33, 2)).freed_blocks = 0;  // would not be chosen as a victim
  Add(Decoding(3, 20, 33, 3)).freed_blocks = 0;
  const StepPlan plan = Plan();
  EXPECT_THAT(plan.preempt, UnorderedElementsAre(Id(2), Id(3)));
  EXPECT_THAT(Ids(plan), ElementsAre(1));
}

TEST_F(SchedulerTest, NothingStartsInAStepThatPreempts) {
  state_.free_blocks = 0;
  Add(Decoding(1, 20, 33, 1));
  Add(Decoding(2, 200, 205, 2));
  Add(Waiting(3, 5, 3));
  Add(Waiting(4, 5, 0)).priority = 0;
  const StepPlan plan = Plan();
  EXPECT_THAT(plan.preempt, ElementsAre(Id(2)));
  EXPECT_THAT(Ids(plan), ElementsAre(1));
}

TEST_F(SchedulerTest, GrowthThatFitsPreemptsNobody) {
  state_.free_blocks = 2;
  Add(Decoding(1, 20, 33, 1));
  Add(Decoding(2, 20, 33, 2));
  const StepPlan plan = Plan();
  EXPECT_THAT(plan.preempt, IsEmpty());
  EXPECT_THAT(plan.items, ElementsAre(Item(1, 1, 3), Item(2, 1, 3)));
}

}  // namespace
}  // namespace quire

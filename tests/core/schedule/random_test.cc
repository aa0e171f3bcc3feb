#include <algorithm>
#include <cstdlib>
#include <map>
#include <set>
#include <tuple>
#include <vector>

#include "core/schedule/trace.h"
#include "gtest/gtest.h"
#include "tests/core/schedule/dice.h"
#include "tests/core/schedule/requests.h"
#include "tests/core/schedule/simulated_engine.h"

// A simulated engine driven by random arrivals, answers and cancels in little memory;
// after every step all that scheduler.h promises is checked.
namespace quire {
namespace {

constexpr int32_t kTenants = 3;
constexpr int kEpisodes = 20;
constexpr int kStepsOfEpisode = 5000;

bool IsLong(const ScheduleOptions& options, const ScheduledRequest& request) {
  const int64_t left = request.known_tokens - request.computed_tokens;
  return request.prompt_tokens >= options.long_prompt_tokens &&
         request.computed_tokens < request.prompt_tokens &&
         left >= options.long_prompt_tokens / (request.running ? 8 : 1);
}

bool Decodes(const ScheduledRequest& request) {
  return request.running && request.computed_tokens >= request.prompt_tokens &&
         request.known_tokens - request.computed_tokens == 1;
}

// Checks one plan against the state that it was made from.
class PlanChecker {
 public:
  PlanChecker(const ScheduleOptions& options, const ScheduleState& state,
              const StepPlan& plan)
      : options_(options), state_(state), plan_(plan) {
    for (const ScheduledRequest& request : state.requests) by_id_[request.id] = &request;
    for (const RequestId id : plan.preempt) preempted_.insert(id);
    for (const PlannedItem& item : plan.items) items_[item.id] = &item;
  }

  void Check() {
    CheckItems();
    CheckPreempted();
    CheckDecodes();
    CheckBudget();
    CheckTime();
    CheckPlaces();
    CheckStarts();
    CheckProgress();
  }

 private:
  const ScheduledRequest& Of(const PlannedItem& item) const {
    return *by_id_.at(item.id);
  }

  void CheckItems() {
    ASSERT_EQ(items_.size(), plan_.items.size()) << "one item a sequence";
    for (const PlannedItem& item : plan_.items) {
      ASSERT_GT(item.rows, 0);
      ASSERT_EQ(item.starts, !Of(item).running);
      ASSERT_FALSE(preempted_.count(item.id));
      ASSERT_LE(item.rows, TokensWanted(Of(item)));
    }
  }

  void CheckPreempted() {
    ASSERT_EQ(preempted_.size(), plan_.preempt.size());
    for (const RequestId id : plan_.preempt) {
      ASSERT_TRUE(by_id_.at(id)->running);
      ASSERT_FALSE(by_id_.at(id)->pinned);
    }
  }

  // Every sequence that decodes and is not preempted gets its row, before all prompts.
  void CheckDecodes() {
    size_t decodes = 0;
    for (const ScheduledRequest& request : state_.requests) {
      if (!Decodes(request) || preempted_.count(request.id)) continue;
      ++decodes;
      ASSERT_TRUE(items_.count(request.id));
      ASSERT_EQ(items_[request.id]->rows, 1);
    }
    for (size_t i = 0; i < plan_.items.size(); ++i) {
      ASSERT_EQ(Decodes(Of(plan_.items[i])), i < decodes);
    }
  }

  static bool ReadsWhole(const ScheduledRequest& request) {
    return request.whole && request.computed_tokens < request.prompt_tokens;
  }

  static int64_t TokensWanted(const ScheduledRequest& request) {
    return (ReadsWhole(request) ? request.prompt_tokens : request.known_tokens) -
           request.computed_tokens;
  }

  void CheckBudget() {
    int64_t rows = 0;
    bool whole = false;
    for (const PlannedItem& item : plan_.items) {
      rows += item.rows;
      if (!ReadsWhole(Of(item))) continue;
      whole = true;
      ASSERT_EQ(item.rows, TokensWanted(Of(item)));
    }
    ASSERT_TRUE(whole || rows <= options_.step_tokens) << rows;
  }

  // Without the least chunks and what is read whole, the step is within its time.
  void CheckTime() {
    StepFeatures decodes, step;
    for (const PlannedItem& item : plan_.items) {
      const StepFeatures features = FeaturesOf(
          {.begin = Of(item).computed_tokens,
           .rows = item.rows,
           .samples = Of(item).samples &&
                      Of(item).computed_tokens + item.rows == Of(item).known_tokens,
           .sparse_from = Of(item).sparse_from});
      if (Decodes(Of(item))) {
        decodes += features;
        step += features;
      } else if (item.rows > options_.min_chunk_tokens && !ReadsWhole(Of(item))) {
        step += features;
      }
    }
    const int64_t decode_ns = state_.cost.Nanoseconds(decodes);
    int64_t limit_ns = options_.step_ns;
    if (decodes.rows > 0) {
      // What the answers put up with for each short prompt in line.
      int64_t shorts = 0;
      for (const ScheduledRequest& request : state_.requests) {
        shorts += !Decodes(request) && !IsLong(options_, request);
      }
      const int64_t one = decode_ns / 100 * (options_.decode_stretch_percent - 100);
      limit_ns = decode_ns + one * std::clamp(shorts, int64_t{1}, int64_t{16});
      if (options_.step_ns > 0) {
        limit_ns = std::max(decode_ns + one, std::min(limit_ns, options_.step_ns));
      }
    }
    ASSERT_TRUE(limit_ns == 0 || state_.cost.Nanoseconds(step) <= limit_ns);
  }

  void CheckPlaces() {
    int32_t running = 0, long_prompts = 0;
    bool starts_long = false;
    for (const ScheduledRequest& request : state_.requests) {
      const bool starts = items_.count(request.id) && !request.running;
      if ((!request.running && !starts) || preempted_.count(request.id)) continue;
      ++running;
      if (!IsLong(options_, request) || Decodes(request)) continue;
      ++long_prompts;
      starts_long |= starts;
    }
    ASSERT_LE(running, options_.max_running);
    ASSERT_TRUE(!starts_long || long_prompts <= options_.max_long_prefills);
  }

  // Nobody starts before one that should have been before it.
  void CheckStarts() {
    for (const PlannedItem& item : plan_.items) {
      if (!item.starts) continue;
      ASSERT_TRUE(plan_.preempt.empty());
      for (const ScheduledRequest& other : state_.requests) {
        if (!other.running && !items_.count(other.id)) CheckPassed(other, Of(item));
      }
    }
  }

  void CheckPassed(const ScheduledRequest& waits, const ScheduledRequest& starts) {
    if (std::pair(waits.accepted_ns, waits.id) >
        std::pair(starts.accepted_ns, starts.id)) {
      return;
    }
    if (IsLong(options_, waits) && !IsLong(options_, starts)) return;
    const bool same = waits.tenant == starts.tenant && waits.priority == starts.priority;
    ASSERT_FALSE(same) << "first come, first served within a class and a tenant";
    ASSERT_FALSE(IsOverdue(options_, waits, state_.now_ns)) << "nobody starves";
  }

  auto Key(const ScheduledRequest& request, const std::vector<int64_t>& served) const {
    const bool overdue = IsOverdue(options_, request, state_.now_ns);
    return std::tuple(!request.running, !overdue,
                      overdue ? 0 : EffectivePriority(options_, request, state_.now_ns),
                      overdue ? 0 : served[request.tenant], request.accepted_ns,
                      request.id);
  }

  // The first in line of the prompts gets its least chunk. New ones: if nothing runs.
  void CheckProgress() {
    ASSERT_TRUE(!plan_.items.empty() || state_.requests.empty());
    std::vector<int64_t> served = state_.served_tokens;
    int64_t rows = options_.step_tokens;
    for (const PlannedItem& item : plan_.items) {
      if (!Decodes(Of(item))) continue;
      ++served[Of(item).tenant];
      --rows;
    }
    const ScheduledRequest* first = nullptr;
    bool runs = false;
    for (const ScheduledRequest& request : state_.requests) {
      runs |= request.running;
      if (Decodes(request) || preempted_.count(request.id)) continue;
      if (first == nullptr || Key(request, served) < Key(*first, served))
        first = &request;
    }
    if (first == nullptr || (runs && !first->running)) return;
    ASSERT_TRUE(items_.count(first->id)) << "the first in line gets rows";
    ASSERT_GE(items_[first->id]->rows,
              std::min<int64_t>({options_.min_chunk_tokens, rows, TokensWanted(*first)}));
  }

  const ScheduleOptions& options_;
  const ScheduleState& state_;
  const StepPlan& plan_;
  std::map<RequestId, const ScheduledRequest*> by_id_;
  std::map<RequestId, const PlannedItem*> items_;
  std::set<RequestId> preempted_;
};

ScheduleOptions RandomOptions(Dice& dice) {
  ScheduleOptions options;
  options.max_running =
      static_cast<int32_t>(dice.OneIn(5) ? dice.In(1, 4) : dice.In(5, 24));
  options.step_tokens = options.max_running + static_cast<int32_t>(dice.In(0, 60));
  options.long_prompt_tokens = static_cast<int32_t>(dice.In(20, 120));
  options.max_long_prefills = static_cast<int32_t>(dice.In(1, 3));
  options.step_ns = dice.OneIn(4) ? 0 : dice.In(1, 100) * kMs;
  options.decode_stretch_percent = static_cast<int32_t>(dice.In(101, 300));
  options.min_chunk_tokens = static_cast<int32_t>(dice.In(1, 16));
  options.aging_ns = dice.In(1, 2000) * kMs;
  options.overdue_ns = dice.In(1, 4000) * kMs;
  options.spare_blocks = static_cast<int32_t>(dice.In(0, 3));
  options.kv.num_blocks = static_cast<int32_t>(dice.In(20, 60));
  options.kv.tokens_per_block = static_cast<int32_t>(dice.In(1, 12));
  return options;
}

StepCost RandomCost(Dice& dice) {
  return {.step_ps = dice.In(0, 20) * kMs * 1000,
          .row_ps = dice.In(0, 2000) * kMs,
          .sequence_ps = dice.In(0, 200) * kMs,
          .sample_ps = dice.In(0, 100) * kMs,
          .prefill_column_ps = dice.In(0, 5) * kMs,
          .decode_column_ps = dice.In(0, 5) * kMs,
          .sparse_row_ps = dice.In(0, 1000) * kMs,
          .scanned_column_ps = dice.In(0, 2) * kMs};
}

SimulatedEngine::Request RandomRequest(const ScheduleOptions& options, Dice& dice) {
  const int64_t capacity = options.kv.capacity_tokens();
  SimulatedEngine::Request made;
  ScheduledRequest& request = made.request;
  request.tenant = static_cast<uint32_t>(dice.Below(kTenants));
  request.priority = static_cast<int32_t>(dice.In(kBestPriority, kWorstPriority));
  request.prompt_tokens = dice.In(1, dice.OneIn(16) ? capacity : 1 + capacity / 12);
  request.known_tokens = request.prompt_tokens;
  request.samples = !dice.OneIn(10);
  const int64_t answer =
      std::min(dice.In(1, capacity / 3), capacity - request.prompt_tokens + 1);
  request.max_tokens = request.prompt_tokens + (request.samples ? answer - 1 : 0);
  made.answer_tokens = dice.In(1, answer);
  request.pinned = dice.OneIn(16);
  request.whole = dice.OneIn(10);
  if (dice.OneIn(3)) request.sparse_from = dice.In(1, 100);
  if (dice.OneIn(2)) {
    made.document = static_cast<int32_t>(dice.Below(3));
    made.document_tokens = dice.In(1, request.prompt_tokens);
  }
  return made;
}

class RandomTest : public ::testing::TestWithParam<int> {
 protected:
  // Arrivals come in bursts with quiet times between.
  void Arrive(int step) {
    const bool burst = step / 200 % 2 == 0;
    while (engine_.requests().size() < 40 && dice_.OneIn(burst ? 2 : 12)) {
      engine_.Submit(RandomRequest(options_, dice_));
    }
  }

  void CancelSome() {
    if (engine_.requests().empty() || !dice_.OneIn(40)) return;
    auto victim = engine_.requests().begin();
    std::advance(victim, dice_.Below(static_cast<int64_t>(engine_.requests().size())));
    engine_.Cancel(victim->first);
  }

  void Step() {
    ScheduleState state = engine_.State();
    const StepPlan plan = PlanStep(options_, state);
    PlanChecker(options_, state, plan).Check();
    if (dice_.OneIn(16)) CheckReplay(state, plan);
    if (dice_.OneIn(4)) {
      std::shuffle(state.requests.begin(), state.requests.end(), dice_.generator());
      ASSERT_EQ(PlanStep(options_, state), plan);
    }
    engine_.Apply(plan);
    ASSERT_TRUE(engine_.BlocksAddUp());
  }

  void CheckReplay(const ScheduleState& state, const StepPlan& plan) {
    const auto options = ParseTraceOptions(FormatTraceOptions(options_));
    ASSERT_EQ(options.status(), absl::OkStatus());
    const auto entry = ParseTraceEntry(FormatTraceEntry({state, plan}));
    ASSERT_EQ(entry.status(), absl::OkStatus());
    ASSERT_EQ(entry->state, state);
    ASSERT_EQ(entry->plan, plan);
    ASSERT_EQ(PlanStep(*options, entry->state), plan);
  }

  Dice dice_{static_cast<uint32_t>(GetParam())};
  ScheduleOptions options_ = RandomOptions(dice_);
  SimulatedEngine engine_{options_, RandomCost(dice_), kTenants};
};

TEST_P(RandomTest, EveryStepKeepsItsPromises) {
  ASSERT_TRUE(options_.Validate().ok()) << options_.Validate();
  for (int step = 0; step < kStepsOfEpisode; ++step) {
    Arrive(step);
    CancelSome();
    engine_.Advance(dice_.OneIn(50) ? dice_.In(0, 3000) * kMs : 1);
    Step();
    if (HasFatalFailure()) FAIL() << "in step " << step;
  }
  for (int step = 0; !engine_.requests().empty(); ++step) {
    ASSERT_LT(step, 200'000) << "it never ends";
    Step();
    if (HasFatalFailure()) FAIL() << "in step " << step << " of the end";
  }
  EXPECT_EQ(engine_.State().free_blocks, options_.kv.num_blocks);
  EXPECT_GT(engine_.ended().size(), 50u);
  RecordProperty("ended", static_cast<int>(engine_.ended().size()));
  RecordProperty("preemptions", static_cast<int>(engine_.preemptions()));
}

// ---- Over a longer time

ScheduleOptions SmallOptions() {
  return {.max_running = 4,
          .step_tokens = 32,
          .long_prompt_tokens = 1000,
          .step_ns = 0,
          .min_chunk_tokens = 4,
          .aging_ns = 1'000'000 * kMs,
          .overdue_ns = 2'000'000 * kMs,
          .kv = {.num_blocks = 200, .tokens_per_block = 16}};
}

SimulatedEngine::Request Simple(uint32_t tenant, int64_t prompt, int64_t answer) {
  SimulatedEngine::Request made;
  made.request = Waiting(0, prompt);
  made.request.tenant = tenant;
  made.request.max_tokens = prompt + answer - 1;
  made.answer_tokens = answer;
  return made;
}

int64_t WaitingOf(const SimulatedEngine& engine, uint32_t tenant) {
  return std::count_if(engine.requests().begin(), engine.requests().end(),
                       [&](const auto& entry) {
                         const ScheduledRequest& request = entry.second.request;
                         return !request.running && request.tenant == tenant;
                       });
}

// Tokens, not requests, are what tenants share: one sends many and large ones, the other
// few and small ones.
TEST(FairnessTest, TenantsThatWaitAreServedTheSameNumberOfTokens) {
  SimulatedEngine engine(SmallOptions(), CostOfRows(), 2);
  for (int i = 0; i < 300; ++i) engine.Submit(Simple(0, 150, 20));
  for (int i = 0; i < 200; ++i) engine.Submit(Simple(1, 20, 5));
  int64_t worst = 0;
  while (WaitingOf(engine, 1) > 0) {
    ASSERT_GT(WaitingOf(engine, 0), 0);
    const ScheduleState state = engine.State();
    worst = std::max(worst, std::abs(state.served_tokens[0] - state.served_tokens[1]));
    engine.Apply(PlanStep(SmallOptions(), state));
  }
  // What all that may run at a time has at most (theorem 4.4 of the paper cited).
  EXPECT_LE(worst, 4 * (150 + 20));
  EXPECT_GT(engine.State().served_tokens[0], 3000);
}

// However much comes in of better classes, who is overdue is the next to start.
TEST(StarvationTest, TheWorstClassWaitsUntilItIsOverdueAndAPlaceIsFree) {
  ScheduleOptions options = SmallOptions();
  options.overdue_ns = 20'000 * kMs;
  SimulatedEngine engine(options, CostOfRows(), 2);
  SimulatedEngine::Request poor = Simple(1, 20, 1);
  poor.request.priority = kWorstPriority;
  const RequestId id = engine.Submit(poor);
  while (engine.ended().count(id) == 0) {
    while (WaitingOf(engine, 0) < 5) {
      engine.Submit(Simple(0, 40, 10));
      engine.Submit(Simple(0, 40, 10));
    }
    engine.Apply(PlanStep(options, engine.State()));
    ASSERT_LT(engine.now_ns(), 60'000 * kMs);
  }
  const int64_t waited_ns = engine.ended().at(id).end_ns;
  EXPECT_GT(waited_ns, options.overdue_ns);
  // A place is free when the first of four answers is over: ten steps of 42 ms.
  EXPECT_LT(waited_ns, options.overdue_ns + 500 * kMs);
}

INSTANTIATE_TEST_SUITE_P(Seeds, RandomTest, ::testing::Range(1, 1 + kEpisodes));

}  // namespace
}  // namespace quire

#pragma once

#include <algorithm>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/core/engine/engine_fixture.h"

namespace quire {

// What an observer was told. OnStep's spans are copied. Read it when the engine is idle
// or gone; counters of other threads are guarded.
class RecordingObserver final : public EngineObserver {
 public:
  struct Step {
    StepReport report;
    std::vector<absl::Duration> gaps;
  };
  struct End {
    FinishReport report;
    AttentionReceipt attention;
  };

  void OnStep(const StepReport& step) override {
    std::lock_guard lock(mutex_);
    steps_.push_back({step, {step.inter_token.begin(), step.inter_token.end()}});
  }
  void OnFinished(const FinishReport& finished) override {
    std::lock_guard lock(mutex_);
    ends_.push_back({finished, finished.attention});
  }
  void OnWouldRefuse() override {
    std::lock_guard lock(mutex_);
    ++would_refuse_;
  }
  void OnPlan(const ScheduleOptions& options, const ScheduleState& state,
              const StepPlan& plan) override {
    EXPECT_EQ(PlanStep(options, state), plan);  // as a trace would be replayed
    std::lock_guard lock(mutex_);
    states_.push_back(state);
    preempted_.insert(preempted_.end(), plan.preempt.begin(), plan.preempt.end());
  }

  std::vector<Step> steps() const {
    std::lock_guard lock(mutex_);
    return steps_;
  }
  std::vector<End> ends() const {
    std::lock_guard lock(mutex_);
    return ends_;
  }
  std::vector<RequestId> preempted() const {
    std::lock_guard lock(mutex_);
    return preempted_;
  }
  std::vector<ScheduleState> states() const {
    std::lock_guard lock(mutex_);
    return states_;
  }
  int would_refuse() const {
    std::lock_guard lock(mutex_);
    return would_refuse_;
  }

 private:
  mutable std::mutex mutex_;
  std::vector<Step> steps_;
  std::vector<End> ends_;
  std::vector<RequestId> preempted_;
  std::vector<ScheduleState> states_;
  int would_refuse_ = 0;
};

// As EngineFixture, but eight requests at a time, steps of 16 rows and 64 cache blocks.
// The cost of a step is known from the start: a second, whatever is in it. So time never
// limits a step, and only the rows do.
class BatchingFixture : public EngineFixture {
 protected:
  BatchingFixture() {
    options_.kv = {.num_blocks = 64, .tokens_per_block = 4};
    options_.model = {.vocab_size = 100, .max_positions = 200};
    options_.chunk_tokens = 16;
    options_.max_running = 8;
    options_.max_waiting = 100;
    options_.step_cost = {.step_ps = 1'000'000'000'000};
    options_.max_step = absl::ZeroDuration();
  }

  // All are accepted before the first of them is planned: a request of one token, id 1 on
  // a new engine, fills the step before theirs.
  std::vector<Submitted> SubmitTogether(std::vector<EngineRequest> requests) {
    model_.Block();
    const Submitted first = Submit(
        {.work = GenerateRequest{{kFirstToken}, 1}, .scheduling = {.tenant = "first"}});
    model_.WaitUntilBlocked();
    std::vector<Submitted> submitted;
    for (EngineRequest& request : requests)
      submitted.push_back(Submit(std::move(request)));
    model_.Release();
    first.record->Wait();
    return submitted;
  }

  Finished Run(EngineRequest request) {
    return Submit(std::move(request)).record->Wait();
  }

  void ExpectAllBlocksBack() {
    engine_->Drain(absl::InfiniteFuture());
    const EngineStats stats = engine_->stats();
    EXPECT_EQ(stats.running, 0);
    EXPECT_EQ(stats.waiting, 0);
    EXPECT_EQ(stats.free_blocks, stats.num_blocks);
  }

  // "2:6+1s 3:0+10": request 2 computes 1 token from position 6 on and samples, ...
  static std::string Text(const RecordedStep& step) {
    std::string text;
    for (const RecordedItem& item : step.items) {
      absl::StrAppend(&text, text.empty() ? "" : " ", static_cast<uint64_t>(item.id), ":",
                      item.begin, "+", item.tokens.size(), item.sample ? "s" : "");
    }
    return text;
  }
  // Of all steps, once all requests are over.
  std::vector<std::string> StepTexts() {
    engine_->Drain(absl::InfiniteFuture());
    std::vector<std::string> texts;
    for (const RecordedStep& step : model_.steps()) texts.push_back(Text(step));
    return texts;
  }
  std::vector<RecordedItem> ItemsOf(RequestId id) const {
    std::vector<RecordedItem> items;
    for (RecordedStep& step : model_.steps()) {
      for (RecordedItem& item : step.items) {
        if (item.id == id) items.push_back(std::move(item));
      }
    }
    return items;
  }

  static constexpr TokenId kFirstToken = 99;
};

// The next token depends on all tokens before it, and on their order.
inline TokenId NextOfAll(absl::Span<const TokenId> sequence) {
  uint32_t hash = 17;
  for (const TokenId token : sequence) hash = hash * 31 + static_cast<uint32_t>(token);
  return static_cast<TokenId>(hash % 97);
}

// What NextOfAll answers to a prompt.
inline std::vector<TokenId> AnswerOfAll(std::vector<TokenId> tokens, int64_t count) {
  const size_t prompt_tokens = tokens.size();
  for (int64_t i = 0; i < count; ++i) tokens.push_back(NextOfAll(tokens));
  return {tokens.begin() + static_cast<int64_t>(prompt_tokens), tokens.end()};
}

inline std::vector<TokenId> Tokens(int64_t count, TokenId first) {
  std::vector<TokenId> tokens;
  for (int64_t i = 0; i < count; ++i) {
    tokens.push_back(static_cast<TokenId>((first + i) % 100));
  }
  return tokens;
}

// The tokens that a sink was told, in order: "token 5" or "scores 1 2".
inline std::vector<TokenId> ReportedTokens(const SinkRecord& record) {
  std::vector<TokenId> tokens;
  for (const std::string& event : record.events()) {
    if (event.starts_with("progress") || event.starts_with("importance")) continue;
    for (size_t at = event.find(' '); at != std::string::npos;
         at = event.find(' ', at + 1)) {
      tokens.push_back(std::stoi(event.substr(at + 1)));
    }
  }
  return tokens;
}

inline std::vector<std::string> ProgressOf(const SinkRecord& record) {
  std::vector<std::string> progress;
  for (const std::string& event : record.events()) {
    if (event.starts_with("progress")) progress.push_back(event.substr(9));
  }
  return progress;
}

inline EngineRequest Score(std::vector<TokenId> tokens, int32_t first = 1) {
  return {.work = ScoreRequest{.tokens = std::move(tokens), .first = first}};
}

inline EngineRequest WithPriority(EngineRequest request, int32_t priority) {
  request.scheduling.priority = priority;
  return request;
}

inline EngineRequest OfTenant(EngineRequest request, std::string tenant) {
  request.scheduling.tenant = std::move(tenant);
  return request;
}

inline EngineRequest WithAttention(EngineRequest request, AttentionOptions attention) {
  std::visit([&](auto& work) { work.attention = attention; }, request.work);
  return request;
}

}  // namespace quire

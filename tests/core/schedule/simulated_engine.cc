#include "tests/core/schedule/simulated_engine.h"

#include <algorithm>

#include "core/base/check.h"

namespace quire {

SimulatedEngine::SimulatedEngine(const ScheduleOptions& options, const StepCost& cost,
                                 int32_t tenants)
    : options_(options),
      cost_(cost),
      served_tokens_(tenants),
      holders_(options.kv.num_blocks) {
  for (int32_t block = 0; block < options.kv.num_blocks; ++block) free_.push_back(block);
}

RequestId SimulatedEngine::Submit(Request request) {
  const RequestId id{++last_id_};
  request.request.id = id;
  request.request.accepted_ns = now_ns_;
  times_[id].accepted_ns = now_ns_;
  requests_[id] = std::move(request);
  return id;
}

void SimulatedEngine::Cancel(RequestId id) {
  GiveBack(requests_.at(id));
  requests_.erase(id);
}

// Of those that run, the one that shares most blocks with the beginning of `request`.
const SimulatedEngine::Request* SimulatedEngine::Donor(const Request& request,
                                                       int32_t* blocks) const {
  const Request* best = nullptr;
  *blocks = 0;
  if (request.document < 0) return nullptr;
  for (const auto& [id, other] : requests_) {
    if (!other.request.running || other.document != request.document) continue;
    const int64_t tokens =
        std::min({other.request.computed_tokens, other.document_tokens,
                  request.document_tokens, request.request.known_tokens - 1});
    const auto shared = static_cast<int32_t>(tokens / options_.kv.tokens_per_block);
    if (shared <= *blocks) continue;
    *blocks = shared;
    best = &other;
  }
  return best;
}

ScheduledRequest SimulatedEngine::Snapshot(const Request& request) const {
  ScheduledRequest snapshot = request.request;
  if (!snapshot.running) {
    Donor(request, &snapshot.shared_blocks);
    snapshot.computed_tokens =
        int64_t{snapshot.shared_blocks} * options_.kv.tokens_per_block;
    return snapshot;
  }
  snapshot.held_blocks = static_cast<int32_t>(request.blocks.size());
  for (const int32_t block : request.blocks) {
    if (holders_[block] == 1) ++snapshot.freed_blocks;
  }
  return snapshot;
}

ScheduleState SimulatedEngine::State() const {
  ScheduleState state{.now_ns = now_ns_,
                      .free_blocks = static_cast<int32_t>(free_.size()),
                      .served_tokens = served_tokens_,
                      .cost = cost_};
  for (const auto& [id, request] : requests_) {
    state.requests.push_back(Snapshot(request));
  }
  return state;
}

void SimulatedEngine::Apply(const StepPlan& plan) {
  for (const RequestId id : plan.preempt) Preempt(id);
  for (const PlannedItem& item : plan.items) Share(item);
  for (const PlannedItem& item : plan.items) Grow(item);
  StepFeatures step;
  for (const PlannedItem& item : plan.items) {
    const ScheduledRequest& request = requests_.at(item.id).request;
    const bool all = request.computed_tokens + item.rows == request.known_tokens;
    step += FeaturesOf({.begin = request.computed_tokens,
                        .rows = item.rows,
                        .samples = request.samples && all,
                        .sparse_from = request.sparse_from});
  }
  now_ns_ += cost_.Nanoseconds(step);
  for (const PlannedItem& item : plan.items) Compute(item);
  for (const RequestId id : std::exchange(over_, {})) {
    ended_[id] = times_[id];
    ended_[id].end_ns = now_ns_;
    Cancel(id);
  }
}

void SimulatedEngine::Preempt(RequestId id) {
  Request& request = requests_.at(id);
  QUIRE_CHECK(request.request.running && !request.request.pinned);
  GiveBack(request);
  request.request.running = false;
  request.request.computed_tokens = 0;
  ++preemptions_;
}

void SimulatedEngine::Share(const PlannedItem& item) {
  Request& request = requests_.at(item.id);
  QUIRE_CHECK(item.starts == !request.request.running);
  if (!item.starts) return;
  int32_t shared = 0;
  const Request* donor = Donor(request, &shared);
  for (int32_t i = 0; i < shared; ++i) {
    request.blocks.push_back(donor->blocks[i]);
    ++holders_[donor->blocks[i]];
  }
  request.request.computed_tokens = int64_t{shared} * options_.kv.tokens_per_block;
}

void SimulatedEngine::Grow(const PlannedItem& item) {
  Request& request = requests_.at(item.id);
  QUIRE_CHECK(item.blocks >= static_cast<int32_t>(request.blocks.size()));
  while (static_cast<int32_t>(request.blocks.size()) < item.blocks) {
    QUIRE_CHECK(!free_.empty());
    request.blocks.push_back(free_.back());
    QUIRE_CHECK(++holders_[free_.back()] == 1);
    free_.pop_back();
  }
  // Only now: it gives to others what it has computed, not what it will compute.
  request.request.running = true;
}

void SimulatedEngine::Compute(const PlannedItem& item) {
  Request& request = requests_.at(item.id);
  request.request.computed_tokens += item.rows;
  served_tokens_[request.request.tenant] += item.rows;
  QUIRE_CHECK(request.request.computed_tokens <=
              int64_t{item.blocks} * options_.kv.tokens_per_block);
  QUIRE_CHECK(request.request.computed_tokens <= request.request.known_tokens);
  if (request.request.computed_tokens == request.request.known_tokens) Emit(request);
}

void SimulatedEngine::Emit(Request& request) {
  Times& times = times_[request.request.id];
  if (times.first_token_ns < 0) times.first_token_ns = now_ns_;
  if (!request.request.samples || ++request.answered == request.answer_tokens) {
    over_.push_back(request.request.id);
  } else {
    ++request.request.known_tokens;
  }
}

void SimulatedEngine::GiveBack(Request& request) {
  for (const int32_t block : request.blocks) {
    if (--holders_[block] == 0) free_.push_back(block);
  }
  request.blocks.clear();
}

bool SimulatedEngine::BlocksAddUp() const {
  std::vector<int32_t> held(holders_.size());
  for (const auto& [id, request] : requests_) {
    if (!request.request.running && !request.blocks.empty()) return false;
    for (const int32_t block : request.blocks) ++held[block];
  }
  const auto empty = std::count(held.begin(), held.end(), 0);
  return held == holders_ && empty == static_cast<int64_t>(free_.size());
}

}  // namespace quire

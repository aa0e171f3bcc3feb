#include <algorithm>
#include <utility>

#include "core/base/status_macros.h"
#include "core/engine/attention_variant.h"
#include "core/engine/batch.h"
#include "core/schedule/request.h"

// What Batch does before a step.
namespace quire {

ScheduledRequest Batch::Scheduled(const BatchRequest& request, bool tight) const {
  ScheduledRequest s = request.scheduled;
  s.running = request.running;
  s.known_tokens = static_cast<int64_t>(KnownOf(request.sequence).size());
  s.computed_tokens =
      request.running ? ComputedOf(request.sequence) : request.cached_hint;
  s.held_blocks = static_cast<int32_t>(request.lease.blocks().size());
  // Only asked for when blocks may run out.
  if (request.running && tight) s.freed_blocks = request.lease.unshared_blocks();
  if (!request.running) s.shared_blocks = request.shared_hint;
  return s;
}

int32_t Batch::free_blocks() const {
  const int32_t held = background_ == nullptr ? 0 : background_->lease.unshared_blocks();
  return pool_.free_blocks() + held;
}

ScheduleState Batch::StateAt(absl::Time now) const {
  ScheduleState state{.now_ns = absl::ToUnixNanos(now),
                      .free_blocks = free_blocks(),
                      .served_tokens = tenants_.served(),
                      .cost = cost_.cost()};
  const bool tight = IsTight(state);
  state.requests.reserve(requests_.size());
  for (const auto& request : requests_) {
    state.requests.push_back(Scheduled(*request, tight));
  }
  return state;
}

void Batch::LookUp(BatchRequest& request) {
  const PrefixCache::Found found = FindPrefix(request);
  request.look_up = false;
  request.cached_hint = found.tokens;
  request.shared_hint = 0;
  for (const BlockId block : found.blocks)
    request.shared_hint += pool_.holders(block) > 0;
}

// Room for the sequence, beginning with what the prefix cache has of it.
absl::Status Batch::Begin(BatchRequest& request, int32_t blocks) {
  const PrefixCache::Found found = FindPrefix(request);
  const auto whole = static_cast<int32_t>(found.blocks.size());
  BlockLease lease = pool_.Lease();
  for (const BlockId block : found.blocks) lease.Share(block);
  // The tail must not be taken for something else before it is copied. If that leaves too
  // little room, it is computed instead.
  BlockLease tail = pool_.Lease();
  if (found.tail != kNoBlock) tail.Share(found.tail);
  blocks = std::max(blocks, whole + 1);
  int64_t tokens = found.tokens;
  if (!lease.GrowTo(blocks).ok()) {
    if (found.tail == kNoBlock) return lease.GrowTo(blocks);
    tail = pool_.Lease();
    tokens -= found.tail_tokens;
    QUIRE_RETURN_IF_ERROR(lease.GrowTo(blocks));
  }
  if (!tail.blocks().empty()) {
    copies_.push_back({.id = request.id,
                       .copy = {found.tail, lease.blocks()[static_cast<size_t>(whole)]},
                       .source = std::move(tail)});
  }
  request.lease = std::move(lease);
  request.place = found.place;
  request.shared_pages = whole;
  request.publishes =
      options_.prefix_caching != PrefixCaching::kOff &&
      AttentionVariant(AttentionOf(request.sequence).options(), 0).has_value();
  StartAt(request.sequence, tokens);
  request.running = true;
  ++running_;
  return absl::OkStatus();
}

absl::Status Batch::TakeBlocks(BatchRequest& request, const PlannedItem& item) {
  if (!item.starts) return request.lease.GrowTo(item.blocks);
  absl::Status status = Begin(request, item.blocks);
  // Less is shared, or more is held for copies, than was thought.
  if (!status.ok()) request.look_up = true;
  return status;
}

void Batch::AddItem(BatchRequest& request, int64_t rows, Planned& planned) {
  StepItem item = std::visit([&](auto& s) { return s.Plan(rows); }, request.sequence);
  item.id = request.id;
  item.blocks = request.lease.blocks();
  // A forced token is chosen too, as far as its cost goes.
  const bool forced =
      std::holds_alternative<GenerateSequence>(request.sequence) && !item.targets.empty();
  planned.rows.push_back({.begin = item.begin,
                          .rows = static_cast<int64_t>(item.tokens.size()),
                          .samples = item.sample || forced,
                          .sparse_from = request.scheduled.sparse_from});
  planned.features += FeaturesOf(planned.rows.back());
  if (!planned.background) tenants_.AddServed(request.scheduled.tenant, rows);
  planned.input.items.push_back(std::move(item));
  planned.requests.push_back(&request);
}

bool Batch::PlanAlone(Planned& planned) {
  if (to_try_alone_ == 0) return false;
  for (const auto& request : requests_) {
    if (request->alone_rows == 0) continue;
    AddItem(*request, std::exchange(request->alone_rows, 0), planned);
    --to_try_alone_;
    return true;
  }
  return false;
}

void Batch::Decide(absl::Time now, std::optional<Ahead> ahead, Planned& planned) {
  for (const auto& request : requests_) {
    if (!request->running && request->look_up) LookUp(*request);
  }
  if (ahead.has_value() && IsAsForeseen(ahead->state)) {
    planned.state = std::move(ahead->state);
    planned.plan = std::move(ahead->plan);
    ++plans_ahead_;
    return;
  }
  planned.state = StateAt(now);
  planned.plan = PlanStep(schedule_, planned.state);
}

void Batch::PlanScheduled(Planned& planned) {
  for (const RequestId id : planned.plan.preempt) Preempt(*Find(id));
  int64_t wanted = 0;
  for (const PlannedItem& item : planned.plan.items) {
    wanted += item.blocks - static_cast<int64_t>(Find(item.id)->lease.blocks().size());
  }
  if (wanted > pool_.free_blocks()) Evict();
  planned.input.items.reserve(planned.plan.items.size());
  planned.requests.reserve(planned.plan.items.size());
  for (const PlannedItem& item : planned.plan.items) {
    BatchRequest& request = *Find(item.id);
    if (!TakeBlocks(request, item).ok()) {
      Evict();
      continue;
    }
    const auto left = static_cast<int64_t>(KnownOf(request.sequence).size()) -
                      ComputedOf(request.sequence);
    AddItem(request, std::min<int64_t>(item.rows, left), planned);
  }
}

void Batch::Evict() {
  if (background_ == nullptr) return;
  Release(*background_, /*valid=*/false);
  evicted_ = true;
}

// Takes all blocks that it may ever need at its start, and steps as long as the
// scheduler's, so that its times are those of a request that has the engine to itself.
void Batch::PlanBackground(Planned& planned) {
  if (background_ == nullptr || evicted_) return;
  BatchRequest& request = *background_;
  if (!request.running) {
    const int64_t blocks = BlocksFor(options_.kv, request.scheduled.max_tokens);
    if (!request.lease.GrowTo(static_cast<int32_t>(blocks)).ok()) {
      evicted_ = true;
      return;
    }
    StartAt(request.sequence, 0);
    request.running = true;
  }
  const int64_t begin = ComputedOf(request.sequence);
  RowRange rows{.begin = begin,
                .rows = static_cast<int64_t>(KnownOf(request.sequence).size()) - begin,
                .sparse_from = request.scheduled.sparse_from};
  if (!request.scheduled.whole) {
    rows.rows = std::min<int64_t>(rows.rows, schedule_.step_tokens);
    if (schedule_.step_ns > 0) {
      rows.rows = std::max<int64_t>(
          std::min<int64_t>(rows.rows, schedule_.min_chunk_tokens),
          RowsWithin(cost_.cost(), {.steps = 1}, rows, schedule_.step_ns));
    }
  }
  planned.background = true;
  AddItem(request, rows.rows, planned);
}

Batch::Planned Batch::Plan(absl::Time now) {
  std::lock_guard lock(mutex_);
  std::optional<Ahead> ahead = std::exchange(ahead_, std::nullopt);
  Planned planned;
  if (requests_.empty()) {
    PlanBackground(planned);
  } else if (!PlanAlone(planned)) {
    Decide(now, std::move(ahead), planned);
    PlanScheduled(planned);
  }
  planned.features.steps = planned.input.items.empty() ? 0 : 1;
  for (const PendingCopy& pending : copies_) {
    planned.input.copies.push_back(pending.copy);
  }
  planned.input.released = released_;
  return planned;
}

// What the scheduler will see after the step under way. Null: something else, for sure.
std::optional<ScheduleState> Batch::Foresee(absl::Time now) const {
  ScheduleState state = StateAt(now);
  for (size_t i = 0; i < requests_.size(); ++i) {
    const BatchRequest& request = *requests_[i];
    // Where it can begin is not known yet.
    if (!request.running && request.look_up) return std::nullopt;
    ScheduledRequest& s = state.requests[i];
    const int64_t rows = PlannedOf(request.sequence);
    s.computed_tokens += rows;
    if (rows == 0 || s.computed_tokens < s.known_tokens) continue;
    if (!s.samples || s.known_tokens == s.max_tokens) return std::nullopt;  // it ends
    ++s.known_tokens;
  }
  return state;
}

bool Batch::IsAsForeseen(const ScheduleState& foreseen) const {
  if (foreseen.requests.size() != requests_.size() ||
      foreseen.free_blocks != free_blocks() ||
      !tenants_.HaveServed(foreseen.served_tokens)) {
    return false;
  }
  const bool tight = IsTight(foreseen);
  for (size_t i = 0; i < requests_.size(); ++i) {
    if (Scheduled(*requests_[i], tight) != foreseen.requests[i]) return false;
  }
  return true;
}

void Batch::PlanAhead(absl::Time now) {
  if (requests_.empty() || to_try_alone_ > 0) return;
  std::optional<ScheduleState> state = Foresee(now);
  if (!state.has_value()) return;
  StepPlan plan = PlanStep(schedule_, *state);
  ahead_ = Ahead{*std::move(state), std::move(plan)};
}

}  // namespace quire

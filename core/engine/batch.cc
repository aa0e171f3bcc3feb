#include "core/engine/batch.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/check.h"
#include "core/base/status_macros.h"
#include "core/engine/attention_variant.h"
#include "core/schedule/request.h"

namespace quire {
namespace {

// The share of a step's error that the cost model learns at once.
constexpr double kLearningRate = 0.05;

ScheduleOptions ToScheduleOptions(const EngineOptions& options) {
  return {.max_running = options.max_running,
          .step_tokens = options.chunk_tokens,
          .long_prompt_tokens = options.long_prompt_tokens,
          .max_long_prefills = options.max_long_prefills,
          .step_ns = absl::ToInt64Nanoseconds(options.max_step),
          .decode_stretch_percent = options.decode_stretch_percent,
          // So many that what grows seldom preempts; measured in tests/core/schedule's
          // simulated engine.
          .spare_blocks = std::max(4, options.kv.num_blocks / 16),
          .kv = options.kv};
}

absl::Span<const TokenId> KnownOf(const BatchRequest& request) {
  return std::visit([](const auto& s) { return s.known(); }, request.sequence);
}

int64_t ComputedOf(const BatchRequest& request) {
  return std::visit([](const auto& s) { return s.computed_tokens(); }, request.sequence);
}

int64_t CacheableOf(const BatchRequest& request) {
  return std::visit([](const auto& s) { return s.cacheable_tokens(); }, request.sequence);
}

void StartAt(BatchRequest& request, int64_t tokens) {
  std::visit([&](auto& s) { s.StartAt(tokens); }, request.sequence);
}

// Attention that reads back what it dropped, chose or measured earlier in the same
// request cannot be taken up again from the tokens alone.
bool IsPinned(const AttentionOptions& attention) {
  return attention.mode == AttentionMode::kFaithful || attention.compact ||
         attention.max_error < 1;
}

int64_t SparseFrom(const AttentionOptions& attention) {
  const bool refined =
      attention.mode == AttentionMode::kAuto || attention.mode == AttentionMode::kRefined;
  return refined && attention.eps > 0 ? attention.SparseFrom() : kNeverSparse;
}

}  // namespace

ScheduledRequest ScheduledOf(const RequestShape& shape, absl::Time accepted) {
  const bool faithful = shape.attention.mode == AttentionMode::kFaithful;
  return {.priority = kMaxPriority - shape.scheduling.priority,
          .accepted_ns = absl::ToUnixNanos(accepted),
          .known_tokens = shape.prompt_tokens,
          .computed_tokens = shape.cached_tokens,
          .prompt_tokens = shape.prompt_tokens,
          .max_tokens = shape.prompt_tokens + std::max<int64_t>(shape.new_tokens, 1) - 1,
          .samples = shape.new_tokens > 0,
          .pinned = IsPinned(shape.attention),
          .whole = faithful && shape.attention.faithful.whole_prompt,
          .sparse_from = SparseFrom(shape.attention)};
}

Batch::Batch(const EngineOptions& options)
    : options_(options),
      schedule_(ToScheduleOptions(options)),
      pool_(options.kv),
      prefix_(pool_),
      cost_(options.step_cost, kLearningRate) {}

// ------------------------------------------------------------------- coming and going

BatchRequest& Batch::Add(std::unique_ptr<BatchRequest> request) {
  std::lock_guard lock(mutex_);
  BatchRequest& r = *request;
  if (r.background.has_value()) {
    QUIRE_CHECK(background_ == nullptr);
    r.lease = pool_.Lease();
    evicted_ = false;
    background_ = std::move(request);
    return r;
  }
  r.scheduled.id = r.id;
  r.scheduled.tenant = tenants_.Acquire(r.scheduling.tenant);
  r.lease = pool_.Lease();
  by_id_[static_cast<uint64_t>(r.id)] = &r;
  requests_.push_back(std::move(request));
  return r;
}

std::unique_ptr<BatchRequest> Batch::Remove(RequestId id, bool valid) {
  std::lock_guard lock(mutex_);
  if (background_ != nullptr && background_->id == id) {
    Release(*background_, /*valid=*/false);
    return std::move(background_);
  }
  const auto place = std::find_if(requests_.begin(), requests_.end(),
                                  [&](const auto& r) { return r->id == id; });
  QUIRE_CHECK(place != requests_.end());
  std::unique_ptr<BatchRequest> request = std::move(*place);
  requests_.erase(place);
  by_id_.erase(static_cast<uint64_t>(id));
  if (request->alone_rows > 0) --to_try_alone_;
  tenants_.Release(request->scheduled.tenant);
  Release(*request, valid);
  return request;
}

BatchRequest* Batch::Find(RequestId id) {
  if (background_ != nullptr && background_->id == id) return background_.get();
  const auto found = by_id_.find(static_cast<uint64_t>(id));
  return found == by_id_.end() ? nullptr : found->second;
}

void Batch::Release(BatchRequest& request, bool valid) {
  if (!request.running) return;
  // What was to be copied for it never was: it has computed nothing.
  valid &= std::erase_if(copies_, [&](const auto& c) { return c.id == request.id; }) == 0;
  if (valid) PublishPages(request);
  // What a page holds at its end is worth keeping too: a conversation goes on there.
  const int64_t rest =
      ComputedOf(request) - int64_t{request.shared_pages} * options_.kv.tokens_per_block;
  if (valid && rest > 0 && Publishes(request)) {
    Publish(request, request.shared_pages, rest);
  }
  request.lease = pool_.Lease();
  request.running = false;
  if (!request.background.has_value()) --running_;
  released_.push_back(request.id);
}

void Batch::Preempt(BatchRequest& request) {
  Release(request, /*valid=*/true);
  // What the step takes may be evicted from what was just given back.
  request.look_up = true;
  StartAt(request, 0);
  ++request.preemptions;
  ++preemptions_;
}

// ----------------------------------------------------------------------- prefix cache

int64_t Batch::CachedTokens(const std::string& tenant, const AttentionOptions& attention,
                            absl::Span<const TokenId> tokens, int64_t most) const {
  std::lock_guard lock(mutex_);
  const std::optional<uint64_t> serial = tenants_.Find(tenant);
  const bool shared = options_.prefix_caching == PrefixCaching::kShared;
  if (!serial.has_value() && !shared) return 0;
  return FindPrefix(serial.value_or(0), attention, tokens, most).tokens;
}

PrefixCache::Found Batch::FindPrefix(const BatchRequest& request) const {
  const AttentionOptions& attention =
      std::visit([](const auto& s) -> const AttentionOptions& { return s.options(); },
                 request.sequence);
  return FindPrefix(tenants_.serial(request.scheduled.tenant), attention,
                    KnownOf(request), CacheableOf(request));
}

PrefixCache::Found Batch::FindPrefix(uint64_t tenant_serial,
                                     const AttentionOptions& attention,
                                     absl::Span<const TokenId> tokens,
                                     int64_t most) const {
  const bool shared = options_.prefix_caching == PrefixCaching::kShared;
  PrefixCache::Found none;
  none.place = PrefixCache::Root(shared ? 0 : tenant_serial);
  if (options_.prefix_caching == PrefixCaching::kOff || most <= 0) return none;
  const auto page_tokens = static_cast<size_t>(options_.kv.tokens_per_block);
  std::vector<PrefixCache::Page> pages;
  for (size_t begin = 0; begin < tokens.size(); begin += page_tokens) {
    const auto end = static_cast<int64_t>(begin + page_tokens);
    const std::optional<uint64_t> variant = AttentionVariant(attention, end);
    if (!variant.has_value()) return none;
    pages.push_back({tokens.subspan(begin, page_tokens), *variant});
  }
  return prefix_.Find(none.place, pages, most);
}

// Pages that were read with another eps than the request began with are not what others
// would compute.
bool Batch::Publishes(BatchRequest& request) const {
  const AttentionReceipt& receipt = AttentionOf(request.sequence).receipt();
  if (receipt.eps_lowered > 0 || receipt.fell_back) request.publishes = false;
  return request.publishes;
}

void Batch::Publish(BatchRequest& request, int64_t page, int64_t tokens) {
  const int64_t begin = page * options_.kv.tokens_per_block;
  const std::optional<uint64_t> variant = AttentionVariant(
      AttentionOf(request.sequence).options(), begin + options_.kv.tokens_per_block);
  QUIRE_CHECK(variant.has_value());
  request.place = prefix_.Add(
      request.place,
      {KnownOf(request).subspan(static_cast<size_t>(begin), static_cast<size_t>(tokens)),
       *variant},
      request.lease.blocks()[static_cast<size_t>(page)]);
}

void Batch::Computed(BatchRequest& request) {
  const int64_t next = int64_t{request.shared_pages + 1} * options_.kv.tokens_per_block;
  if (!request.publishes || next > ComputedOf(request)) return;
  std::lock_guard lock(mutex_);
  PublishPages(request);
}

void Batch::PublishPages(BatchRequest& request) {
  const int64_t page_tokens = options_.kv.tokens_per_block;
  if (!request.running || !Publishes(request)) return;
  while ((request.shared_pages + 1) * page_tokens <= ComputedOf(request)) {
    Publish(request, request.shared_pages, page_tokens);
    ++request.shared_pages;
  }
}

// --------------------------------------------------------------------------- planning

ScheduledRequest Batch::Scheduled(const BatchRequest& request, bool tight) const {
  ScheduledRequest s = request.scheduled;
  s.running = request.running;
  s.known_tokens = static_cast<int64_t>(KnownOf(request).size());
  s.computed_tokens = request.running ? ComputedOf(request) : request.cached_hint;
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
  const bool tight = state.free_blocks <= running_;
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
  StartAt(request, tokens);
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

void Batch::PlanScheduled(absl::Time now, Planned& planned) {
  for (const auto& request : requests_) {
    if (!request->running && request->look_up) LookUp(*request);
  }
  planned.state = StateAt(now);
  planned.plan = PlanStep(schedule_, planned.state);
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
    const auto left = static_cast<int64_t>(KnownOf(request).size()) - ComputedOf(request);
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
    StartAt(request, 0);
    request.running = true;
  }
  const int64_t begin = ComputedOf(request);
  RowRange rows{.begin = begin,
                .rows = static_cast<int64_t>(KnownOf(request).size()) - begin,
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
  Planned planned;
  if (requests_.empty()) {
    PlanBackground(planned);
  } else if (!PlanAlone(planned)) {
    PlanScheduled(now, planned);
  }
  planned.features.steps = planned.input.items.empty() ? 0 : 1;
  for (const PendingCopy& pending : copies_) {
    planned.input.copies.push_back(pending.copy);
  }
  planned.input.released = released_;
  return planned;
}

// ------------------------------------------------------------------------- afterwards

std::vector<ItemTime> Batch::Divide(const Planned& planned,
                                    absl::Duration elapsed) const {
  const int64_t from =
      planned.background ? background_->background->measure_from : int64_t{0};
  return DivideStep(cost_.cost(), planned.rows, elapsed, from);
}

void Batch::Succeeded(const Planned& planned, absl::Duration elapsed) {
  released_.clear();
  copies_.clear();
  cost_.Add(planned.features, absl::ToInt64Nanoseconds(elapsed));
}

bool Batch::Failed(const Planned& planned) {
  if (planned.input.items.size() < 2) return false;
  for (size_t i = 0; i < planned.requests.size(); ++i) {
    BatchRequest& request = *planned.requests[i];
    request.alone_rows = static_cast<int64_t>(planned.input.items[i].tokens.size());
    std::visit([](auto& s) { s.Abandon(); }, request.sequence);
    ++to_try_alone_;
  }
  return true;
}

absl::Status Batch::Drop(BatchRequest& request, const std::vector<int32_t>& indices) {
  if (indices.empty()) return absl::OkStatus();
  for (const int32_t index : indices) {
    const auto blocks = request.lease.blocks();
    const bool held = index >= 0 && index < static_cast<int64_t>(blocks.size()) &&
                      blocks[static_cast<size_t>(index)] != kNoBlock;
    if (!held) {
      return absl::InternalError(absl::StrCat("the model runner dropped block ", index,
                                              ", which the request does not hold"));
    }
    request.lease.Drop(index);
  }
  request.publishes = false;
  AttentionOf(request.sequence)
      .AddDropped(static_cast<int64_t>(indices.size()) * options_.block_bytes);
  return absl::OkStatus();
}

}  // namespace quire

#include "core/engine/batch.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/check.h"
#include "core/engine/attention_variant.h"

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
  const int64_t rest = ComputedOf(request.sequence) -
                       int64_t{request.shared_pages} * options_.kv.tokens_per_block;
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
  StartAt(request.sequence, 0);
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
                    KnownOf(request.sequence), CacheableOf(request.sequence));
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
  request.place =
      prefix_.Add(request.place,
                  {KnownOf(request.sequence)
                       .subspan(static_cast<size_t>(begin), static_cast<size_t>(tokens)),
                   *variant},
                  request.lease.blocks()[static_cast<size_t>(page)]);
}

void Batch::Computed(BatchRequest& request) {
  const int64_t next = int64_t{request.shared_pages + 1} * options_.kv.tokens_per_block;
  if (!request.publishes || next > ComputedOf(request.sequence)) return;
  std::lock_guard lock(mutex_);
  PublishPages(request);
}

void Batch::PublishPages(BatchRequest& request) {
  const int64_t page_tokens = options_.kv.tokens_per_block;
  if (!request.running || !Publishes(request)) return;
  while ((request.shared_pages + 1) * page_tokens <= ComputedOf(request.sequence)) {
    Publish(request, request.shared_pages, page_tokens);
    ++request.shared_pages;
  }
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

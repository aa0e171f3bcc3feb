#include "tests/benchmarks/schedule_sim/replica.h"

#include <algorithm>
#include <utility>

#include "core/base/check.h"
#include "core/schedule/estimate.h"

namespace quire::sim {
namespace {

// The tokens of a document are made up: equal for equal documents and places.
TokenId TokenAt(int64_t document, int64_t position) {
  uint64_t x = static_cast<uint64_t>(document) * 0x9e3779b97f4a7c15u +
               static_cast<uint64_t>(position / 64) * 0xbf58476d1ce4e5b9u;
  x ^= x >> 31;
  return static_cast<TokenId>(x & 0x7fffffff);
}

}  // namespace

struct Replica::Job {
  ScheduledRequest s;
  Outcome* outcome = nullptr;
  const Arrival* arrival = nullptr;
  BlockLease lease;
  PrefixCache::Place place;
  int64_t pages = 0;  // in the prefix cache
  int64_t generated = 0;
  int64_t last_token_ns = 0;
  std::vector<TokenId> document;  // its whole pages only
};

Replica::Replica(const ReplicaOptions& options)
    : options_(options), pool_(options.schedule.kv), prefix_(pool_) {}

Replica::~Replica() = default;

ScheduleState Replica::StateAt(int64_t now_ns) const {
  ScheduleState state{.now_ns = now_ns,
                      .free_blocks = pool_.free_blocks(),
                      .served_tokens = served_,
                      .cost = options_.cost};
  for (const auto& job : jobs_) {
    ScheduledRequest s = job->s;
    s.held_blocks = static_cast<int32_t>(job->lease.blocks().size());
    if (s.running) s.freed_blocks = job->lease.unshared_blocks();
    state.requests.push_back(s);
  }
  return state;
}

bool Replica::Accept(const Arrival& arrival, Outcome& outcome, int64_t now_ns) {
  outcome.arrival = &arrival;
  auto job = std::make_unique<Job>();
  job->s = {.id = RequestId{++last_id_},
            .tenant = arrival.tenant,
            .priority = arrival.priority,
            .accepted_ns = now_ns,
            .known_tokens = arrival.prompt_tokens,
            .prompt_tokens = arrival.prompt_tokens,
            .max_tokens = arrival.prompt_tokens + arrival.new_tokens - 1,
            .sparse_from = options_.sparse_from};
  job->outcome = &outcome;
  job->arrival = &arrival;
  job->lease = pool_.Lease();
  if (served_.size() <= arrival.tenant) served_.resize(arrival.tenant + 1);
  const KvGeometry& kv = options_.schedule.kv;
  const bool too_large = job->s.max_tokens > kv.capacity_tokens();
  const bool full = jobs_.size() >= static_cast<size_t>(options_.schedule.max_running +
                                                        options_.max_waiting);
  bool late = false;
  if (options_.enforce_deadlines && arrival.deadline_ns > 0 && !too_large && !full) {
    const TimeEstimate estimate = EstimateTimes(options_.schedule, StateAt(now_ns),
                                                job->s, options_.expected_percent);
    late = estimate.end_ns > arrival.deadline_ns;
  }
  outcome.refused = too_large || full || late;
  if (outcome.refused) return false;
  const int64_t pages = arrival.document_tokens / kv.tokens_per_block;
  for (int64_t i = 0; i < pages * kv.tokens_per_block; ++i) {
    job->document.push_back(TokenAt(arrival.document, i));
  }
  job->s.computed_tokens = FindPrefix(*job).tokens;
  // A tenant that comes back does not bring what it did not use.
  int64_t least = -1;
  bool present = false;
  for (const auto& other : jobs_) {
    present = present || other->s.tenant == arrival.tenant;
    const int64_t served = served_[other->s.tenant];
    if (least < 0 || served < least) least = served;
  }
  if (!present && least > 0) {
    served_[arrival.tenant] = std::max(served_[arrival.tenant], least);
  }
  jobs_.push_back(std::move(job));
  return true;
}

PrefixCache::Found Replica::FindPrefix(const Job& job) const {
  const auto page_tokens = static_cast<size_t>(options_.schedule.kv.tokens_per_block);
  std::vector<PrefixCache::Page> pages;
  const absl::Span<const TokenId> all(job.document);
  for (size_t begin = 0; begin < all.size(); begin += page_tokens) {
    pages.push_back({all.subspan(begin, page_tokens), 0});
  }
  return prefix_.Find(PrefixCache::Root(0), pages, job.s.known_tokens - 1);
}

int64_t Replica::CachedTokens(const Arrival& arrival) const {
  Job job;
  job.s.known_tokens = arrival.prompt_tokens;
  const int64_t page_tokens = options_.schedule.kv.tokens_per_block;
  const int64_t tokens = arrival.document_tokens / page_tokens * page_tokens;
  for (int64_t i = 0; i < tokens; ++i) {
    job.document.push_back(TokenAt(arrival.document, i));
  }
  return FindPrefix(job).tokens;
}

bool Replica::Start(Job& job, int32_t blocks) {
  const PrefixCache::Found found = FindPrefix(job);
  BlockLease lease = pool_.Lease();
  for (const BlockId block : found.blocks) lease.Share(block);
  const auto whole = static_cast<int32_t>(found.blocks.size());
  if (!lease.GrowTo(std::max(blocks, whole + 1)).ok()) return false;
  job.lease = std::move(lease);
  job.place = found.place;
  job.pages = whole;
  job.s.computed_tokens = int64_t{whole} * options_.schedule.kv.tokens_per_block;
  if (job.s.known_tokens == job.s.prompt_tokens) {
    job.outcome->cached_tokens = job.s.computed_tokens;
  }
  job.s.running = true;
  return true;
}

void Replica::Preempt(Job& job) {
  job.lease = pool_.Lease();
  job.s.running = false;
  job.s.computed_tokens = FindPrefix(job).tokens;
  job.pages = 0;
  ++job.outcome->preemptions;
}

void Replica::Publish(Job& job) {
  const int64_t page_tokens = options_.schedule.kv.tokens_per_block;
  const auto document = static_cast<int64_t>(job.document.size());
  while ((job.pages + 1) * page_tokens <= std::min(document, job.s.computed_tokens)) {
    const absl::Span<const TokenId> all(job.document);
    job.place = prefix_.Add(job.place,
                            {all.subspan(static_cast<size_t>(job.pages * page_tokens),
                                         static_cast<size_t>(page_tokens)),
                             0},
                            job.lease.blocks()[static_cast<size_t>(job.pages)]);
    ++job.pages;
  }
}

Replica::Job* Replica::Find(RequestId id) {
  for (const auto& job : jobs_) {
    if (job->s.id == id) return job.get();
  }
  return nullptr;
}

void Replica::Remove(RequestId id) {
  std::erase_if(jobs_, [&](const auto& job) { return job->s.id == id; });
}

void Replica::DropExpired(int64_t now_ns) {
  std::erase_if(jobs_, [&](const auto& job) {
    const int64_t deadline = job->arrival->deadline_ns;
    if (deadline == 0 || now_ns < job->arrival->at_ns + deadline) return false;
    job->outcome->expired = true;
    job->outcome->end_ns = now_ns;
    return true;
  });
}

std::optional<int64_t> Replica::Begin(int64_t now_ns) {
  QUIRE_CHECK(!stepping_);
  DropExpired(now_ns);
  const ScheduleState state = StateAt(now_ns);
  const StepPlan plan = PlanStep(options_.schedule, state);
  for (const RequestId id : plan.preempt) Preempt(*Find(id));
  items_.clear();
  StepFeatures features;
  for (PlannedItem item : plan.items) {
    Job& job = *Find(item.id);
    const bool ready =
        item.starts ? Start(job, item.blocks) : job.lease.GrowTo(item.blocks).ok();
    if (!ready) continue;
    const int64_t left = job.s.known_tokens - job.s.computed_tokens;
    item.rows = static_cast<int32_t>(std::min<int64_t>(item.rows, left));
    features += FeaturesOf({.begin = job.s.computed_tokens,
                            .rows = item.rows,
                            .samples = item.rows == left,
                            .sparse_from = job.s.sparse_from});
    served_[job.s.tenant] += item.rows;
    items_.push_back(item);
  }
  if (items_.empty()) return std::nullopt;
  stepping_ = true;
  began_ns_ = now_ns;
  return now_ns + options_.cost.Nanoseconds(features);
}

void Replica::End(int64_t now_ns) {
  stepping_ = false;
  busy_ns_ += now_ns - began_ns_;
  for (const PlannedItem& item : items_) {
    Job& job = *Find(item.id);
    job.s.computed_tokens += item.rows;
    Publish(job);
    if (job.s.computed_tokens < job.s.known_tokens) continue;
    if (job.generated == 0) {
      job.outcome->first_token_ns = now_ns;
    } else {
      job.outcome->gaps_ns.push_back(now_ns - job.last_token_ns);
    }
    job.last_token_ns = now_ns;
    ++job.s.known_tokens;
    if (++job.generated < job.arrival->new_tokens) continue;
    job.outcome->end_ns = now_ns;
    Remove(item.id);
  }
}

int64_t Replica::load_ns(int64_t now_ns) const {
  int64_t ns = PrefillBacklogNs(options_.schedule, StateAt(now_ns));
  // What decodes takes time of every step too.
  ns += static_cast<int64_t>(jobs_.size()) * (options_.cost.row_ps / 1000);
  return ns;
}

}  // namespace quire::sim

#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/time/time.h"
#include "core/engine/engine.h"
#include "core/engine/sequence.h"
#include "core/engine/step_time.h"
#include "core/engine/tenants.h"
#include "core/kv/block_pool.h"
#include "core/kv/prefix_cache.h"
#include "core/schedule/estimate.h"

namespace quire {

// An accepted request until it is finished; the engine thread's.
struct BatchRequest {
  RequestId id{};
  Sequence sequence;
  std::unique_ptr<RequestSink> sink;
  absl::Time deadline;
  absl::Time accepted;
  Scheduling scheduling;
  // What the scheduler knows from the start; the rest is filled in for every plan.
  ScheduledRequest scheduled;
  TimeEstimate estimate;  // when it was accepted; zeros: none

  std::optional<absl::Time> started;     // its first step began
  std::optional<absl::Time> prefilled;   // its prompt was computed
  std::optional<absl::Time> last_token;  // was chosen
  int32_t preemptions = 0;
  double first_token_ratio = 0;  // real over estimated, once known
  double end_ratio = 0;
  std::optional<Background> background;
  DeviceTime device;
  std::vector<int64_t> head_columns;  // see Finished

  // Kept by Batch.
  bool running = false;
  BlockLease lease;
  PrefixCache::Place place;  // behind its last page that is in the prefix cache
  int32_t shared_pages = 0;  // leading pages up to there
  bool publishes = false;    // its pages may go to the prefix cache
  bool look_up = true;       // waiting: the next two are to be found
  int64_t cached_hint = 0;   // waiting: tokens that the prefix cache had for it
  int32_t shared_hint = 0;   // waiting: of their blocks, those that others hold
  int64_t alone_rows = 0;    // > 0: its item of so many rows is to be tried alone
};

// What is known of a request before it is made, for the scheduler. sparse_from, pinned
// and whole follow from the attention.
ScheduledRequest ScheduledOf(const RequestShape& shape, absl::Time accepted);

// All accepted requests with their cache blocks: turns the scheduler's plans into steps
// and steps into cached pages. Knows no clock and no runner. The engine thread's, but for
// CachedTokens.
//
// Apart from the others, whom the scheduler sees, there may be one background request. It
// is planned only when there are no others, and its blocks count as free: who needs them
// evicts it.
class Batch {
 public:
  explicit Batch(const EngineOptions& options);

  BatchRequest& Add(std::unique_ptr<BatchRequest> request);
  // Leading tokens of a text that the prefix cache has for this tenant, of at most
  // `most`. Thread-safe; waits for a plan to be made, at most.
  int64_t CachedTokens(const std::string& tenant, const AttentionOptions& attention,
                       absl::Span<const TokenId> tokens, int64_t most) const;

  // Its blocks are free again; pages that others may want stay cached. `valid`: what it
  // has computed is what it says.
  std::unique_ptr<BatchRequest> Remove(RequestId id, bool valid);
  // Null: unknown.
  BatchRequest* Find(RequestId id);
  // Without the background request.
  const std::vector<std::unique_ptr<BatchRequest>>& requests() const { return requests_; }
  // Null: none.
  const BatchRequest* background() const { return background_.get(); }
  // Its blocks were given to others, or there never were as many: it must be removed.
  bool evicted() const { return background_ != nullptr && evicted_; }
  int32_t free_blocks() const;

  // What runs next, with blocks taken for it. The spans of the input view the batch until
  // Succeeded or Failed. No items: nothing can run now. `state` and `plan` are what was
  // decided from, and how.
  struct Planned {
    StepInput input;
    std::vector<BatchRequest*> requests;  // of the items
    std::vector<RowRange> rows;           // as are these
    StepFeatures features;
    bool background = false;  // its only item is the background request's
    ScheduleState state;
    StepPlan plan;
  };
  Planned Plan(absl::Time now);

  // While the step is computed: plans the next one from what the scheduler will see if
  // all of its items go well, nobody ends and nobody comes. Plan takes that plan if all
  // is as it was foreseen, and else makes another; only the time and the prices that it
  // was made with are a step old then. Changes nothing that the input views.
  void PlanAhead(absl::Time now);
  int64_t plans_ahead() const { return plans_ahead_; }  // that were taken

  // What a step that took so long took for each of its items.
  std::vector<ItemTime> Divide(const Planned& planned, absl::Duration elapsed) const;

  // The step was computed. An item's own outcome is the caller's to commit, and then to
  // report here: Computed adds its finished pages to the prefix cache.
  void Succeeded(const Planned& planned, absl::Duration elapsed);
  void Computed(BatchRequest& request);
  // The whole step failed: each of its items is tried again alone. With one item there is
  // nothing to try: false.
  bool Failed(const Planned& planned);

  // Blocks whose keys and values the runner reads no more are others' to use. kInternal:
  // the request does not hold them.
  absl::Status Drop(BatchRequest& request, const std::vector<int32_t>& indices);

  const ScheduleOptions& schedule() const { return schedule_; }
  // Everything the scheduler would see now.
  ScheduleState StateAt(absl::Time now) const;
  const BlockPool& pool() const { return pool_; }
  const StepCostFit& step_cost() const { return cost_; }
  const Tenants& tenants() const { return tenants_; }
  int32_t running() const { return running_; }
  int64_t preemptions() const { return preemptions_; }

 private:
  struct PendingCopy {
    RequestId id{};  // for whom
    BlockCopy copy;
    BlockLease source;  // held until then
  };
  struct Ahead {
    ScheduleState state;
    StepPlan plan;
  };
  bool IsTight(const ScheduleState& state) const { return state.free_blocks <= running_; }
  ScheduledRequest Scheduled(const BatchRequest& request, bool tight) const;
  std::optional<ScheduleState> Foresee(absl::Time now) const;
  bool IsAsForeseen(const ScheduleState& foreseen) const;
  PrefixCache::Found FindPrefix(const BatchRequest& request) const;
  PrefixCache::Found FindPrefix(uint64_t tenant_serial, const AttentionOptions& attention,
                                absl::Span<const TokenId> tokens, int64_t most) const;
  void PublishPages(BatchRequest& request);
  void LookUp(BatchRequest& request);
  bool Publishes(BatchRequest& request) const;
  void Publish(BatchRequest& request, int64_t page, int64_t tokens);
  void Preempt(BatchRequest& request);
  void Release(BatchRequest& request, bool valid);
  absl::Status TakeBlocks(BatchRequest& request, const PlannedItem& item);
  absl::Status Begin(BatchRequest& request, int32_t blocks);
  void AddItem(BatchRequest& request, int64_t rows, Planned& planned);
  bool PlanAlone(Planned& planned);
  void Decide(absl::Time now, std::optional<Ahead> ahead, Planned& planned);
  void PlanScheduled(Planned& planned);
  void PlanBackground(Planned& planned);
  void Evict();

  const EngineOptions options_;
  const ScheduleOptions schedule_;
  BlockPool pool_;
  mutable std::mutex mutex_;  // guards the next two against CachedTokens
  PrefixCache prefix_;
  Tenants tenants_;
  StepCostFit cost_;
  std::vector<std::unique_ptr<BatchRequest>> requests_;  // in order of acceptance
  absl::flat_hash_map<uint64_t, BatchRequest*> by_id_;
  std::unique_ptr<BatchRequest> background_;
  bool evicted_ = false;
  int32_t running_ = 0;
  int64_t preemptions_ = 0;
  int32_t to_try_alone_ = 0;
  std::optional<Ahead> ahead_;  // for the next step
  int64_t plans_ahead_ = 0;
  // Not yet seen by a step that succeeded: who is over, and copies of cached tails.
  std::vector<RequestId> released_;
  std::vector<PendingCopy> copies_;
};

}  // namespace quire

#include "core/schedule/scheduler.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "core/schedule/order.h"
#include "core/schedule/request.h"

namespace quire {
namespace {

constexpr int64_t kNoLimit = std::numeric_limits<int64_t>::max();

// A cost that is no cost: what is made of it must not overflow.
constexpr int64_t kLongestDecodeNs = int64_t{1} << 40;  // 18 minutes

// One call of PlanStep.
//
// Why a plan is never empty while something runs: a step has at least max_running rows,
// so decodes leave at least a row for each prompt that runs, and the first prompt in line
// gets a row whatever it costs. A decode misses its row only if it was preempted, and not
// all that runs is: whatever started last has a block to itself, that of its last known
// token, as only blocks that were full before are shared. Let Z be that one, and G the
// first in order that finds no block. If Z is pinned it stays. If Z is before G it stays,
// because only what is behind a grower, or itself, is preempted for it; if Z is behind G,
// its block is G's. If Z is G, its block is the next grower's, and what does not grow
// stays. Nothing else runs: then all blocks but its own are free, and as its max_tokens
// fit the cache, it can grow. (Pinned ones never grow: they start with all their blocks.)
//
// Why something starts while nothing runs: all blocks are free, no spare ones are asked
// for, no long prompt has been begun, and the first in line gets its rows.
//
// Why sequences do not preempt each other for ever: one is preempted either for the
// growth of one before it, which then gets its row and with it a token; or for its own
// growth, and then it has got a token since it started, because a start brings the blocks
// for the row after the known tokens. So there are no more than twice as many preemptions
// as tokens in all answers. As nothing starts in a step that preempts, and a start asks
// for more than was given back, who was preempted for itself waits for blocks of others.
class Planner {
 public:
  Planner(const ScheduleOptions& options, const ScheduleState& state)
      : options_(options),
        state_(state),
        served_(state.served_tokens),
        free_(state.free_blocks),
        begun_short_(options, state.now_ns, served_),
        waiting_(options, state.now_ns, served_) {}

  StepPlan Plan() {
    SortOut();
    GrowDecodes();
    for (const int32_t index : decodes_) AddDecode(At(index));
    SetBudget();
    QueuePrompts();
    PlanBegunShort();
    PlanStarts();
    PlanLong();
    return std::move(plan_);
  }

 private:
  enum class Admission { kStart, kSkip, kStop };
  struct Place {
    OrderKey key;
    int32_t index;
  };

  const ScheduledRequest& At(int32_t index) const { return state_.requests[index]; }

  void SortOut();

  // Decodes and their memory.
  void GrowDecodes();
  void GrowInOrder();
  std::vector<Place> RunningInOrder() const;
  void MakeRoom(int32_t grower, int64_t need, std::vector<Place>& victims);
  void Preempt(int32_t index);
  int64_t Growth(int32_t index) const;
  void AddDecode(const ScheduledRequest& request);

  // Prompts: first the short ones, which leave a share to the long ones.
  void SetBudget();
  void QueuePrompts();
  void PlanBegunShort();
  void PlanStarts();
  void PlanLong();
  void ReserveForLong(const ScheduledRequest& first);
  Admission Admit(const ScheduledRequest& request);
  bool PlanShort(const ScheduledRequest& request);
  void AddStartingLong(const ScheduledRequest& request);
  void AddPrompt(const ScheduledRequest& request, int64_t rows);
  int64_t RowsFor(const ScheduledRequest& request, int64_t rows, int64_t limit_ns,
                  bool first) const;

  const ScheduleOptions& options_;
  const ScheduleState& state_;
  std::vector<int64_t> served_;  // with this plan's rows
  StepPlan plan_;
  StepFeatures step_;

  std::vector<int32_t> decodes_;  // in order of acceptance
  std::vector<int32_t> prompts_;  // begun, any order
  std::vector<bool> preempted_;   // empty: none
  int64_t free_;                  // blocks; those that waiting ones could start with
  int32_t running_ = 0;
  int64_t short_begun_ = 0, short_waiting_ = 0;  // prompts that want rows

  int64_t rows_ = 0;      // left in the step
  int64_t limit_ns_ = 0;  // for the whole step
  int64_t quarter_rows_ = 0;
  int64_t quarter_ns_ = 0;
  // For long prompts; of rows_ and limit_ns_.
  int64_t reserved_rows_ = 0;
  int64_t reserved_ns_ = 0;
  int32_t long_places_ = 0;     // for long prompts that start
  bool long_is_first_ = false;  // in line
  bool short_planned_ = false;

  Line begun_short_, waiting_;
  std::vector<const ScheduledRequest*> longs_;  // in order: begun, new
};

void Planner::SortOut() {
  for (size_t i = 0; i < state_.requests.size(); ++i) {
    if (!Decodes(At(i)) && !IsLong(options_, At(i))) {
      ++(At(i).running ? short_begun_ : short_waiting_);
    }
    if (!At(i).running) continue;
    ++running_;
    (Decodes(At(i)) ? decodes_ : prompts_).push_back(static_cast<int32_t>(i));
  }
  std::sort(decodes_.begin(), decodes_.end(), [this](int32_t a, int32_t b) {
    return std::pair(At(a).accepted_ns, At(a).id) <
           std::pair(At(b).accepted_ns, At(b).id);
  });
}

// Blocks that a decode must be given for its row.
int64_t Planner::Growth(int32_t index) const {
  const int64_t blocks = BlocksFor(options_.kv, At(index).computed_tokens + 1);
  return std::max(int64_t{0}, blocks - At(index).held_blocks);
}

void Planner::GrowDecodes() {
  int64_t growth = 0;
  for (const int32_t index : decodes_) growth += Growth(index);
  if (growth > free_) return GrowInOrder();
  free_ -= growth;
}

void Planner::GrowInOrder() {
  preempted_.resize(state_.requests.size());
  const std::vector<Place> order = RunningInOrder();
  std::vector<Place> victims = order;
  std::erase_if(victims, [this](const Place& place) { return At(place.index).pinned; });
  for (const Place& place : order) {
    if (preempted_[place.index] || !Decodes(At(place.index))) continue;
    const int64_t need = Growth(place.index);
    MakeRoom(place.index, need, victims);
    if (!preempted_[place.index]) free_ -= need;
  }
  const auto gone = [this](int32_t index) { return preempted_[index]; };
  std::erase_if(decodes_, gone);
  std::erase_if(prompts_, gone);
}

std::vector<Planner::Place> Planner::RunningInOrder() const {
  std::vector<Place> order;
  for (const auto* indices : {&decodes_, &prompts_}) {
    for (const int32_t index : *indices) {
      const int64_t served = served_[At(index).tenant];
      order.push_back({KeyOf(options_, At(index), state_.now_ns, served), index});
    }
  }
  std::sort(order.begin(), order.end(),
            [](const Place& a, const Place& b) { return a.key < b.key; });
  return order;
}

// Preempts from the end of `victims`, to the grower itself if need be, until there are
// `need` blocks. Who shares all its blocks would give them up in vain and is passed over.
void Planner::MakeRoom(int32_t grower, int64_t need, std::vector<Place>& victims) {
  while (!victims.empty() && preempted_[victims.back().index]) victims.pop_back();
  for (size_t i = victims.size(); i-- > 0 && need > free_;) {
    const int32_t victim = victims[i].index;
    if (victim == grower) break;
    if (!preempted_[victim] && At(victim).freed_blocks > 0) Preempt(victim);
  }
  if (need > free_) Preempt(grower);
}

void Planner::Preempt(int32_t index) {
  preempted_[index] = true;
  plan_.preempt.push_back(At(index).id);
  free_ += At(index).freed_blocks;
}

void Planner::AddDecode(const ScheduledRequest& request) {
  const int64_t blocks = BlocksFor(options_.kv, request.computed_tokens + 1);
  plan_.items.push_back(
      {.id = request.id,
       .rows = 1,
       .blocks = std::max(request.held_blocks, static_cast<int32_t>(blocks))});
  step_ += FeaturesOf(RowsOf(request, 1));
  served_[request.tenant] += 1;
}

void Planner::SetBudget() {
  const int64_t decode_ns = state_.cost.Nanoseconds(step_);
  if (!decodes_.empty()) {
    const int64_t startable = free_ > options_.spare_blocks ? short_waiting_ : 0;
    limit_ns_ = MixedStepNs(options_, std::min(decode_ns, kLongestDecodeNs),
                            short_begun_ + startable);
  } else {
    limit_ns_ = options_.step_ns == 0 ? kNoLimit : options_.step_ns;
  }
  rows_ = options_.step_tokens - static_cast<int64_t>(decodes_.size());
  quarter_rows_ = rows_ / 4;
  quarter_ns_ = (limit_ns_ - decode_ns) / 4;
}

void Planner::QueuePrompts() {
  Line longs(options_, state_.now_ns, served_);
  for (const int32_t index : prompts_) {
    (IsLong(options_, At(index)) ? longs : begun_short_).Add(At(index));
  }
  begun_short_.Close();
  longs.Close();
  if (!longs.empty()) {
    long_is_first_ = begun_short_.empty() || longs.FrontKey() < begun_short_.FrontKey();
    ReserveForLong(longs.Front());
  }
  while (!longs.empty()) longs_.push_back(&longs.TakeFront());
  long_places_ = options_.max_long_prefills - static_cast<int32_t>(longs_.size());
}

void Planner::ReserveForLong(const ScheduledRequest& first) {
  int64_t rows = quarter_rows_;
  if (long_is_first_) rows = std::max(rows, int64_t{options_.min_chunk_tokens});
  reserved_rows_ = std::min({rows, rows_, TokensLeft(first)});
  reserved_ns_ = quarter_ns_;
}

void Planner::PlanBegunShort() {
  while (!begun_short_.empty()) PlanShort(begun_short_.TakeFront());
}

// False: there was no row for it.
bool Planner::PlanShort(const ScheduledRequest& request) {
  if (ReadsWhole(request) && short_planned_) return false;
  if (!short_planned_ && !long_is_first_) {  // its least chunk is before their share
    const int64_t least =
        std::min({int64_t{options_.min_chunk_tokens}, rows_, TokensLeft(request)});
    reserved_rows_ = std::min(reserved_rows_, rows_ - least);
  }
  const int64_t rows = RowsFor(request, rows_ - reserved_rows_, limit_ns_ - reserved_ns_,
                               /*first=*/!short_planned_);
  if (rows == 0) return false;
  AddPrompt(request, rows);
  return short_planned_ = true;
}

// The rows that a prompt gets of those that are left for its kind.
int64_t Planner::RowsFor(const ScheduledRequest& request, int64_t rows, int64_t limit_ns,
                         bool first) const {
  if (ReadsWhole(request)) return request.prompt_tokens - request.computed_tokens;
  const int64_t wanted = std::min(rows, TokensLeft(request));
  const int64_t least = first ? std::min(wanted, int64_t{options_.min_chunk_tokens}) : 0;
  return std::max(least,
                  RowsWithin(state_.cost, step_, RowsOf(request, wanted), limit_ns));
}

void Planner::AddPrompt(const ScheduledRequest& request, int64_t rows) {
  const int64_t blocks =
      request.running ? request.held_blocks : BlocksToStart(options_.kv, request);
  plan_.items.push_back({.id = request.id,
                         .rows = static_cast<int32_t>(rows),
                         .starts = !request.running,
                         .blocks = static_cast<int32_t>(blocks)});
  step_ += FeaturesOf(RowsOf(request, rows));
  served_[request.tenant] += rows;
  rows_ = std::max(reserved_rows_, rows_ - rows);  // a whole one may pass it
}

void Planner::PlanStarts() {
  if (!plan_.preempt.empty() || running_ >= options_.max_running) return;
  for (const ScheduledRequest& request : state_.requests) {
    if (!request.running) waiting_.Add(request);
  }
  waiting_.Close();
  while (!waiting_.empty() && running_ < options_.max_running && rows_ > reserved_rows_) {
    const ScheduledRequest& request = waiting_.TakeFront();
    const Admission admission = Admit(request);
    if (admission == Admission::kStop) return;
    if (admission == Admission::kSkip) continue;
    if (IsLong(options_, request)) {
      AddStartingLong(request);
    } else if (!PlanShort(request)) {
      return;
    }
    free_ -= BlocksToStart(options_.kv, request) - request.shared_blocks;
    ++running_;
  }
}

// Its rows come when the short ones have theirs.
void Planner::AddStartingLong(const ScheduledRequest& request) {
  --long_places_;
  longs_.push_back(&request);
  if (longs_.size() > 1) return;
  long_is_first_ = !short_planned_;
  ReserveForLong(request);
}

// kSkip: those behind it may start before it. kStop: they may not.
Planner::Admission Planner::Admit(const ScheduledRequest& request) {
  if (IsLong(options_, request)) {
    if (ReadsWhole(request) && !longs_.empty()) long_places_ = 0;
    if (long_places_ <= 0) return Admission::kSkip;
  }
  const int64_t spare = running_ > 0 ? options_.spare_blocks : 0;
  const int64_t blocks = BlocksToStart(options_.kv, request) - request.shared_blocks;
  return blocks + spare <= free_ ? Admission::kStart : Admission::kStop;
}

void Planner::PlanLong() {
  reserved_rows_ = 0;
  for (const ScheduledRequest* request : longs_) {
    const bool first = long_is_first_ && request == longs_.front();
    const int64_t rows = RowsFor(*request, rows_, limit_ns_, first);
    if (rows > 0) AddPrompt(*request, rows);
  }
}

}  // namespace

StepPlan PlanStep(const ScheduleOptions& options, const ScheduleState& state) {
  return Planner(options, state).Plan();
}

bool IsOverdue(const ScheduleOptions& options, const ScheduledRequest& request,
               int64_t now_ns) {
  return now_ns - request.accepted_ns > options.overdue_ns;
}

int32_t EffectivePriority(const ScheduleOptions& options, const ScheduledRequest& request,
                          int64_t now_ns) {
  const int64_t waited = std::max(int64_t{0}, now_ns - request.accepted_ns);
  const int64_t better =
      std::min(waited / options.aging_ns, int64_t{request.priority - kBestPriority});
  return request.priority - static_cast<int32_t>(better);
}

}  // namespace quire

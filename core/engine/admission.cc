#include "core/engine/admission.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/engine/refuse.h"

namespace quire {
namespace {

// What GetLoad tells the delay of.
constexpr int64_t kShortPromptTokens = 64;

}  // namespace

Admission::Admission(const EngineOptions& options, const ScheduleOptions& schedule,
                     const StepReporter& reporter)
    : options_(options), schedule_(schedule), reporter_(reporter) {
  state_.free_blocks = options.kv.num_blocks;
  state_.cost = options.step_cost;
  stats_.free_blocks = options.kv.num_blocks;
  stats_.num_blocks = options.kv.num_blocks;
  stats_.step_cost = options.step_cost;
}

// ---------------------------------------------------------------------------- coming in

Admission::View Admission::ViewLocked(absl::Time now) const {
  View view{.state = state_};
  view.state.now_ns = absl::ToUnixNanos(now);
  view.active.resize(view.state.served_tokens.size());
  for (const ScheduledRequest& request : view.state.requests) {
    const int64_t served = view.state.served_tokens[request.tenant];
    const bool first = &request == &view.state.requests.front();
    view.least_served = first ? served : std::min(view.least_served, served);
    view.active[request.tenant] = true;
  }
  for (const Incoming& incoming : incoming_) {
    const uint32_t tenant = JoinLocked(incoming.tenant, view);
    view.state.requests.push_back(incoming.request);
    view.state.requests.back().tenant = tenant;
  }
  return view;
}

uint32_t Admission::JoinLocked(const std::string& tenant, View& view) const {
  std::vector<int64_t>& served = view.state.served_tokens;
  uint32_t index;
  if (const auto known = tenants_.find(tenant); known != tenants_.end()) {
    index = known->second;
  } else {
    const auto next = static_cast<uint32_t>(served.size());
    const auto [place, is_new] = view.new_tenants.try_emplace(tenant, next);
    if (is_new) served.push_back(0);
    index = place->second;
  }
  view.active.resize(served.size());
  if (!view.active[index]) served[index] = std::max(served[index], view.least_served);
  view.active[index] = true;
  if (view.state.requests.empty()) view.least_served = served[index];
  return index;
}

ScheduledRequest Admission::NewestLocked(const RequestShape& shape, absl::Time now,
                                         View& view) const {
  ScheduledRequest request = ScheduledOf(shape, now);
  request.id = RequestId{std::numeric_limits<uint64_t>::max()};
  request.tenant = JoinLocked(shape.scheduling.tenant, view);
  return request;
}

int64_t Admission::WaitingTokensLocked() const {
  int64_t tokens = stats_.waiting_tokens;
  for (const Incoming& other : incoming_) tokens += other.request.prompt_tokens;
  return tokens;
}

absl::Status Admission::CheckRoomLocked(const RequestShape& shape) const {
  const auto in_work =
      int64_t{stats_.running} + stats_.waiting + static_cast<int64_t>(incoming_.size());
  if (in_work >= int64_t{options_.max_running} + options_.max_waiting) {
    return Refuse(Refusal::kWaitingRoomFull,
                  absl::StrCat("max_running is ", options_.max_running,
                               " and max_waiting is ", options_.max_waiting,
                               "; as many requests (", in_work, ") are in work or wait"));
  }
  const int64_t waiting = WaitingTokensLocked();
  if (waiting > 0 && waiting + shape.prompt_tokens > options_.max_waiting_tokens) {
    return Refuse(
        Refusal::kWaitingRoomFull,
        absl::StrCat("max_waiting_tokens is ", options_.max_waiting_tokens,
                     "; prompts of ", waiting, " tokens wait already, and this one has ",
                     shape.prompt_tokens));
  }
  return absl::OkStatus();
}

absl::Status Admission::CheckDeadline(const RequestShape& shape,
                                      const TimeEstimate& estimate, const StepCost& cost,
                                      absl::Time now, bool comes) const {
  if (options_.admission == AdmissionMode::kOff) return absl::OkStatus();
  RequestShape later = shape;
  later.prompt_tokens = shape.scheduling.later_prompt_tokens;
  later.cached_tokens = 0;
  later.new_tokens = shape.scheduling.later_new_tokens;
  int64_t end_ns = estimate.end_ns;
  if (later.prompt_tokens > 0) {
    end_ns += estimator_.Alone(schedule_, cost, ScheduledOf(later, now)).end_ns;
  }
  const absl::Duration cautious = absl::Nanoseconds(end_ns) * estimator_.caution();
  if (now + cautious <= shape.deadline) return absl::OkStatus();
  if (options_.admission == AdmissionMode::kReport) {
    if (comes) reporter_.OnWouldRefuse();
    return absl::OkStatus();
  }
  const auto round = [](absl::Duration d) {
    return absl::Trunc(d, absl::Milliseconds(1));
  };
  return Refuse(
      Refusal::kDeadlineTooClose,
      absl::StrCat(
          "the deadline is ", absl::FormatDuration(round(shape.deadline - now)),
          " away; with the load of now the first token is expected after ",
          absl::FormatDuration(round(absl::Nanoseconds(estimate.first_token_ns))),
          " and the end after ", absl::FormatDuration(round(absl::Nanoseconds(end_ns)))));
}

absl::StatusOr<TimeEstimate> Admission::CheckLocked(const RequestShape& shape,
                                                    absl::Time now, bool comes) const {
  if (!shape.scheduling.admitted) QUIRE_RETURN_IF_ERROR(CheckRoomLocked(shape));
  View view = ViewLocked(now);
  const ScheduledRequest request = NewestLocked(shape, now, view);
  const TimeEstimate estimate = estimator_.Estimate(schedule_, view.state, request);
  if (!shape.scheduling.admitted) {
    QUIRE_RETURN_IF_ERROR(CheckDeadline(shape, estimate, view.state.cost, now, comes));
  }
  return estimate;
}

absl::StatusOr<TimeEstimate> Admission::Check(const RequestShape& shape,
                                              absl::Time now) const {
  RequestShape best = shape;
  if (options_.prefix_caching != PrefixCaching::kOff) {
    best.cached_tokens = best.prompt_tokens - 1;
  }
  std::lock_guard lock(mutex_);
  return CheckLocked(best, now, /*comes=*/false);
}

absl::StatusOr<TimeEstimate> Admission::Take(const RequestShape& shape, absl::Time now) {
  std::lock_guard lock(mutex_);
  QUIRE_ASSIGN_OR_RETURN(const TimeEstimate estimate,
                         CheckLocked(shape, now, /*comes=*/true));
  incoming_.push_back({ScheduledOf(shape, now), shape.scheduling.tenant});
  return estimate;
}

RequestEstimate Admission::Estimate(const RequestShape& shape, absl::Time now) const {
  std::lock_guard lock(mutex_);
  View view = ViewLocked(now);
  const ScheduledRequest request = NewestLocked(shape, now, view);
  const TimeEstimate loaded = estimator_.Estimate(schedule_, view.state, request);
  const TimeEstimate alone = estimator_.Alone(schedule_, view.state.cost, request);
  return {.first_token = absl::Nanoseconds(loaded.first_token_ns),
          .end = absl::Nanoseconds(loaded.end_ns),
          .first_token_alone = absl::Nanoseconds(alone.first_token_ns),
          .end_alone = absl::Nanoseconds(alone.end_ns),
          .expected_answer_share = estimator_.expected_percent() / 100.0};
}

EngineStats Admission::stats(absl::Time now) const {
  std::lock_guard lock(mutex_);
  EngineStats stats = stats_;
  stats.waiting += static_cast<int32_t>(incoming_.size());
  stats.waiting_tokens = WaitingTokensLocked();
  stats.prompt_tokens_per_second = totals_.prompt_rate.PerSecond(now);
  stats.generated_tokens_per_second = totals_.generated_rate.PerSecond(now);
  View view = ViewLocked(now);
  stats.prefill_backlog = absl::Nanoseconds(PrefillBacklogNs(schedule_, view.state));
  const ScheduledRequest request =
      NewestLocked({.prompt_tokens = kShortPromptTokens, .new_tokens = 1}, now, view);
  stats.first_token_delay = absl::Nanoseconds(
      estimator_.Estimate(schedule_, view.state, request).first_token_ns);
  return stats;
}

// -------------------------------------------------------------------- the engine thread

void Admission::Publish(const Batch& batch, const StepReporter::Totals& totals,
                        const std::vector<std::unique_ptr<BatchRequest>>& incoming) {
  EngineStats stats{
      .running = batch.running(),
      .waiting = static_cast<int32_t>(batch.requests().size()) - batch.running(),
      .free_blocks = batch.free_blocks(),
      .cached_blocks = batch.pool().cached_blocks(),
      .num_blocks = options_.kv.num_blocks,
      .tenants = batch.tenants().active(),
      .steps = totals.steps,
      .plans_ahead = batch.plans_ahead(),
      .prompt_tokens = totals.prompt_tokens,
      .cached_tokens = totals.cached_tokens,
      .generated_tokens = totals.generated_tokens,
      .preemptions = batch.preemptions(),
      .step_cost = batch.step_cost().cost(),
      .step_cost_error = batch.step_cost().error()};
  for (size_t i = 0; stats.waiting > 0 && i < batch.requests().size(); ++i) {
    const auto& request = batch.requests()[i];
    if (!request->running) stats.waiting_tokens += request->scheduled.prompt_tokens;
  }
  std::lock_guard lock(mutex_);
  stats_ = stats;
  totals_ = totals;
  state_.free_blocks = stats.free_blocks;
  state_.cost = stats.step_cost;
  incoming_.clear();
  for (const auto& request : incoming) {
    if (request->background) continue;
    incoming_.push_back({request->scheduled, request->scheduling.tenant});
  }
}

void Admission::PublishState(ScheduleState state, const Tenants& tenants) {
  std::lock_guard lock(mutex_);
  state_ = std::move(state);
  if (tenant_changes_ == tenants.changes()) return;
  tenant_changes_ = tenants.changes();
  tenants_ = tenants.indices();
}

void Admission::Forget(RequestId id) {
  std::lock_guard lock(mutex_);
  std::erase_if(state_.requests, [id](const auto& request) { return request.id == id; });
}

void Admission::LearnFirstToken(BatchRequest& request, absl::Time now) {
  std::lock_guard lock(mutex_);
  request.first_token_ratio =
      estimator_.LearnFirstToken(request.estimate.first_token_ns, now - request.accepted);
}

void Admission::LearnLate(BatchRequest& request, absl::Time now) {
  std::lock_guard lock(mutex_);
  const absl::Duration passed = now - request.accepted;
  const auto late = [&](int64_t estimated_ns) {
    return passed > absl::Nanoseconds(estimated_ns);
  };
  const TimeEstimate& estimate = request.estimate;
  if (!request.prefilled && late(estimate.first_token_ns)) {
    request.first_token_ratio =
        estimator_.LearnFirstToken(estimate.first_token_ns, passed);
  }
  if (late(estimate.end_ns)) {
    request.end_ratio = estimator_.LearnEnd(estimate.end_ns, passed);
  }
}

void Admission::LearnEnd(BatchRequest& request, int64_t generated, absl::Time now) {
  std::lock_guard lock(mutex_);
  if (request.scheduled.samples) {
    estimator_.LearnAnswer(
        generated, request.scheduled.max_tokens - request.scheduled.prompt_tokens + 1);
  }
  request.end_ratio =
      estimator_.LearnEnd(request.estimate.end_ns, now - request.accepted);
}

}  // namespace quire

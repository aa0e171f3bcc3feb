#include "server/shadow/shadow_runner.h"

#include <chrono>
#include <optional>
#include <utility>

#include "core/engine/request_limits.h"

namespace quire::server {
namespace {

// How often it is looked whether the engine is idle and the budget filled.
constexpr std::chrono::milliseconds kPoll(20);

}  // namespace

// Keeps what a run reports, and wakes who waits for its end.
class ShadowRunner::Sink final : public RequestSink {
 public:
  struct State {
    std::mutex mutex;
    std::condition_variable changed;
    bool finished = false;
    Outcome outcome;
  };
  explicit Sink(std::shared_ptr<State> state) : state_(std::move(state)) {}

  void OnProgress(int64_t, int64_t) override {}
  void OnToken(const TokenScore& token) override {
    std::lock_guard lock(state_->mutex);
    state_->outcome.seen.push_back(Seen(token));
  }
  void OnScores(std::vector<TokenScore> scores) override {
    std::lock_guard lock(state_->mutex);
    for (const TokenScore& score : scores) state_->outcome.seen.push_back(Seen(score));
  }
  void OnImportance(std::vector<float>) override {}
  void OnFinished(const Finished& finished) override {
    std::lock_guard lock(state_->mutex);
    state_->outcome.status = finished.status;
    state_->outcome.device = finished.device;
    state_->finished = true;
    state_->changed.notify_all();
  }

 private:
  const std::shared_ptr<State> state_;
};

ShadowRunner::ShadowRunner(Engine& engine, absl::Duration budget, SavingsModel& model,
                           SavingsObserver& observer, const Clock& clock)
    : engine_(engine),
      model_(model),
      observer_(observer),
      clock_(clock),
      budget_(budget, clock.Now()),
      thread_([this] { Run(); }) {}

ShadowRunner::~ShadowRunner() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
    changed_.notify_all();
  }
  thread_.join();
}

void ShadowRunner::Add(ShadowJob job) {
  std::optional<ShadowJob> given_up;
  {
    std::lock_guard lock(mutex_);
    if (waiting_.size() >= kMaxWaiting) {
      given_up = std::move(waiting_.front());
      waiting_.pop_front();
    }
    waiting_.push_back(std::move(job));
    changed_.notify_all();
  }
  if (given_up.has_value()) Skip(*given_up, ShadowSkip::kBusy);
}

void ShadowRunner::Run() {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [this] { return stopping_ || !waiting_.empty(); });
    if (stopping_) return;
    const absl::Time now = clock_.Now();
    const std::optional<ShadowSkip> hindrance = Hindrance();
    const bool late = now - waiting_.front().finished > kPatience;
    if (hindrance.has_value() && !late) {
      changed_.wait_for(lock, kPoll, [this] { return stopping_; });
      continue;
    }
    const ShadowJob job = std::move(waiting_.front());
    waiting_.pop_front();
    lock.unlock();
    hindrance.has_value() ? Skip(job, *hindrance) : Measure(job);
    lock.lock();
  }
}

std::optional<ShadowSkip> ShadowRunner::Hindrance() {
  if (!budget_.HasLeft(clock_.Now())) return ShadowSkip::kBudget;
  const EngineStats stats = engine_.stats();
  if (stats.running + stats.waiting > 0) return ShadowSkip::kBusy;
  return std::nullopt;
}

ShadowRunner::Outcome ShadowRunner::RunAgain(const ShadowJob& job, bool dense) {
  auto state = std::make_shared<Sink::State>();
  const absl::StatusOr<RequestId> id =
      engine_.Submit(Rerun(job, dense), std::make_unique<Sink>(state));
  if (!id.ok()) return {.status = id.status()};
  bool cancelled = false;
  std::unique_lock lock(state->mutex);
  while (!state->changed.wait_for(lock, kPoll, [&] { return state->finished; })) {
    std::lock_guard own_lock(mutex_);
    if (stopping_ && !std::exchange(cancelled, true)) engine_.Cancel(*id);
  }
  budget_.Spend(state->outcome.device.total() + state->outcome.device.skipped);
  return std::move(state->outcome);
}

// A request that shared its steps took less than it would have alone, and so would dense
// attention have: it is computed again as it was, too.
void ShadowRunner::Measure(const ShadowJob& job) {
  absl::Duration own = job.device.total();
  absl::Duration modelled = job.device.dense_total();
  Outcome dense = RunAgain(job, /*dense=*/true);
  absl::Status status = dense.status;
  if (status.ok() && !job.device.alone) {
    const Outcome again = RunAgain(job, /*dense=*/false);
    status = again.status;
    own = again.device.total();
    modelled = again.device.dense_total();
  }
  if (!status.ok()) {
    const bool aborted = absl::IsAborted(status) || absl::IsCancelled(status) ||
                         absl::IsUnavailable(status);
    return Skip(job, aborted ? ShadowSkip::kAborted : ShadowSkip::kFailed);
  }
  ShadowResult result{.call_id = job.request.scheduling.call_id,
                      .mode = ShapeOf(job.request).attention.mode,
                      .own = own,
                      .dense = dense.device.total()};
  Compare(job.seen, dense.seen, result);
  model_.Learn(modelled, result.dense);
  observer_.OnShadow(result);
  // What it took, and what dense attention would have under the same circumstances.
  const double ratio =
      own > absl::ZeroDuration() ? absl::FDivDuration(result.dense, own) : 1;
  Report(job, SavingsBasis::kMeasured, job.device.total(), job.device.total() * ratio);
}

void ShadowRunner::Skip(const ShadowJob& job, ShadowSkip reason) {
  observer_.OnShadowSkipped(reason);
  DeviceTime device = job.device;
  model_.Correct(AttentionMode::kAuto, device);
  Report(job, SavingsBasis::kModelled, device.total(), device.dense_total());
}

void ShadowRunner::Report(const ShadowJob& job, SavingsBasis basis, absl::Duration own,
                          absl::Duration dense) {
  observer_.OnSavings({.call_id = job.request.scheduling.call_id,
                       .basis = basis,
                       .own = own,
                       .dense = dense,
                       .saved_usd = model_.UsdOf(dense - own)});
}

}  // namespace quire::server

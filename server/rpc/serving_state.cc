#include "server/rpc/serving_state.h"

#include <utility>

#include "core/base/check.h"
#include "server/rpc/status.h"

namespace quire::server {
namespace {

absl::Status Loading() {
  return WithRetry(
      WithReason(absl::UnavailableError("the models are still loading"), "LOADING"),
      absl::Seconds(1));
}

}  // namespace

absl::Status ServingState::ShuttingDown() {
  return WithRetry(
      WithReason(absl::UnavailableError("the server is shutting down"), "DRAINING"),
      absl::Seconds(5));
}

ServingState::Ticket::Ticket(Ticket&& other) noexcept
    : state_(std::exchange(other.state_, nullptr)), id_(other.id_) {}

ServingState::Ticket::~Ticket() {
  if (state_ == nullptr) return;
  std::lock_guard lock(state_->mutex_);
  state_->calls_.erase(id_);
  state_->changed_.notify_all();
}

const ModelRegistry& ServingState::Ticket::models() const { return *state_->models(); }

absl::StatusOr<ServingState::Ticket> ServingState::Admit(
    std::function<void(const absl::Status&)> end, bool while_draining) {
  std::lock_guard lock(mutex_);
  if (phase_ == Phase::kLoading) return Loading();
  // A signal may have come before the models were there.
  const bool may_look = while_draining && models_ != nullptr;
  if (phase_ == Phase::kDraining && !may_look) return ShuttingDown();
  calls_[next_id_] = std::move(end);
  return Ticket(this, next_id_++);
}

void ServingState::Serve(std::unique_ptr<const ModelRegistry> models) {
  std::lock_guard lock(mutex_);
  QUIRE_CHECK(models_ == nullptr);
  models_ = std::move(models);
  // A signal may have come while the models were loading.
  if (phase_ == Phase::kLoading) phase_ = Phase::kServing;
}

void ServingState::Drain() {
  std::lock_guard lock(mutex_);
  phase_ = Phase::kDraining;
}

void ServingState::CancelAll(const absl::Status& why) {
  std::lock_guard lock(mutex_);
  for (const auto& [id, end] : calls_) {
    if (end) end(why);
  }
}

bool ServingState::WaitUntilIdle(absl::Duration timeout) {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, absl::ToChronoNanoseconds(timeout),
                           [this] { return calls_.empty(); });
}

ServingState::Phase ServingState::phase() const {
  std::lock_guard lock(mutex_);
  return phase_;
}

const ModelRegistry* ServingState::models() const {
  std::lock_guard lock(mutex_);
  return models_.get();
}

}  // namespace quire::server

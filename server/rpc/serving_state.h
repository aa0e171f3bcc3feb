#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "server/model_registry.h"

namespace quire::server {

// Whether calls are taken, and which ones are in work: loading, then serving, then
// draining. Thread-safe; has its own lock.
class ServingState {
 public:
  enum class Phase { kLoading, kServing, kDraining };

  // A call in work, until it is destroyed. Move-only.
  class Ticket {
   public:
    Ticket(Ticket&& other) noexcept;
    Ticket& operator=(Ticket&&) = delete;
    ~Ticket();
    const ModelRegistry& models() const;

   private:
    friend class ServingState;
    Ticket(ServingState* state, uint64_t id) : state_(state), id_(id) {}
    ServingState* state_;
    uint64_t id_;
  };

  // `end` may be null; it gives the call up (from CancelAll, with that status) and must
  // not call back. kUnavailable with ErrorInfo LOADING, or DRAINING unless
  // `while_draining`, and RetryInfo.
  absl::StatusOr<Ticket> Admit(std::function<void(const absl::Status&)> end,
                               bool while_draining = false);

  // REQUIRES: loading.
  void Serve(std::unique_ptr<const ModelRegistry> models);
  void Drain();
  // Gives up all calls in work.
  void CancelAll(const absl::Status& why);
  // True: no call is in work any more; false: it took longer than `timeout`.
  bool WaitUntilIdle(absl::Duration timeout);

  // kUnavailable with ErrorInfo DRAINING: what calls that a drain gives up end with.
  static absl::Status ShuttingDown();

  Phase phase() const;
  // Null while loading.
  const ModelRegistry* models() const;

 private:
  mutable std::mutex mutex_;  // guards all below
  std::condition_variable changed_;
  Phase phase_ = Phase::kLoading;
  std::unique_ptr<const ModelRegistry> models_;  // set once
  std::map<uint64_t, std::function<void(const absl::Status&)>> calls_;
  uint64_t next_id_ = 0;
};

}  // namespace quire::server

#pragma once

#include <condition_variable>
#include <mutex>

#include "absl/container/flat_hash_set.h"
#include "absl/time/time.h"

namespace grpc {
class ClientContext;
}

namespace quire::client {

// "Stop now" for any number of calls. Thread-safe. Not for signal handlers: have the
// handler wake a thread that calls Cancel().
class CancelToken {
 public:
  CancelToken() = default;
  CancelToken(const CancelToken&) = delete;
  CancelToken& operator=(const CancelToken&) = delete;

  // Idempotent. Calls that run end with CANCELLED; calls begun later never leave.
  void Cancel();
  bool cancelled() const;
  // Returns early, with true, when cancelled.
  bool WaitFor(absl::Duration wait) const;

 private:
  friend class AttachedContext;
  // The standard's, not Abseil's: ThreadSanitizer cannot see into Debian's build of that.
  mutable std::mutex mutex_;  // guards the rest
  mutable std::condition_variable changed_;
  bool cancelled_ = false;
  absl::flat_hash_set<grpc::ClientContext*> contexts_;
};

// While it lives, cancelling the token cancels the call; at once if it is cancelled
// already. Both outlive this object.
class AttachedContext {
 public:
  AttachedContext(CancelToken& token, grpc::ClientContext& context);
  ~AttachedContext();
  AttachedContext(const AttachedContext&) = delete;
  AttachedContext& operator=(const AttachedContext&) = delete;

 private:
  CancelToken& token_;
  grpc::ClientContext& context_;
};

}  // namespace quire::client

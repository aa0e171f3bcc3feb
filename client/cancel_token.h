#pragma once

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_set.h"
#include "absl/synchronization/mutex.h"
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
  mutable absl::Mutex mutex_;
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
  absl::flat_hash_set<grpc::ClientContext*> contexts_ ABSL_GUARDED_BY(mutex_);
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

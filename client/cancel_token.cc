#include "client/cancel_token.h"

#include <grpcpp/client_context.h>

#include <algorithm>

namespace quire::client {

void CancelToken::Cancel() {
  std::lock_guard lock(mutex_);
  cancelled_ = true;
  changed_.notify_all();
  // TryCancel only queues work, so holding the lock is short; and the lock is what keeps
  // the contexts alive.
  for (grpc::ClientContext* context : contexts_) context->TryCancel();
}

bool CancelToken::cancelled() const {
  std::lock_guard lock(mutex_);
  return cancelled_;
}

bool CancelToken::WaitFor(absl::Duration wait) const {
  // The standard adds the wait to now, which must not overflow.
  const absl::Duration bounded = std::min(wait, absl::Hours(24 * 365));
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, absl::ToChronoNanoseconds(bounded),
                           [this] { return cancelled_; });
}

AttachedContext::AttachedContext(CancelToken& token, grpc::ClientContext& context)
    : token_(token), context_(context) {
  std::lock_guard lock(token_.mutex_);
  token_.contexts_.insert(&context_);
  // Before the call has begun this is remembered and ends the call when it begins.
  if (token_.cancelled_) context_.TryCancel();
}

AttachedContext::~AttachedContext() {
  std::lock_guard lock(token_.mutex_);
  token_.contexts_.erase(&context_);
}

}  // namespace quire::client

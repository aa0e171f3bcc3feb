#include "client/cancel_token.h"

#include <grpcpp/client_context.h>

namespace quire::client {

void CancelToken::Cancel() {
  absl::MutexLock lock(&mutex_);
  cancelled_ = true;
  // TryCancel only queues work, so holding the lock is short; and the lock is what keeps
  // the contexts alive.
  for (grpc::ClientContext* context : contexts_) context->TryCancel();
}

bool CancelToken::cancelled() const {
  absl::MutexLock lock(&mutex_);
  return cancelled_;
}

bool CancelToken::WaitFor(absl::Duration wait) const {
  absl::MutexLock lock(&mutex_);
  return mutex_.AwaitWithTimeout(absl::Condition(&cancelled_), wait);
}

AttachedContext::AttachedContext(CancelToken& token, grpc::ClientContext& context)
    : token_(token), context_(context) {
  absl::MutexLock lock(&token_.mutex_);
  token_.contexts_.insert(&context_);
  // Before the call has begun this is remembered and ends the call when it begins.
  if (token_.cancelled_) context_.TryCancel();
}

AttachedContext::~AttachedContext() {
  absl::MutexLock lock(&token_.mutex_);
  token_.contexts_.erase(&context_);
}

}  // namespace quire::client

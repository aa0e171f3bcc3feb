#pragma once

#include <grpcpp/client_context.h>

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "client/backoff.h"
#include "client/cancel_token.h"
#include "client/client_options.h"

namespace quire::client {

// What stays the same over all tries of one call: deadline, request id, cancellation,
// waits. One thread; the token may be cancelled from any.
class CallState {
 public:
  CallState(const ClientOptions& options, const ClientHooks& hooks, CallOptions call);

  // A context for the next try.
  std::unique_ptr<grpc::ClientContext> NewContext() const;
  // After a failed try: waits if it is worth another one, and says whether it is.
  bool WaitToRetry(const absl::Status& error);
  // kCancelled, whatever the server made of it, once the token is cancelled.
  absl::Status Finish(const grpc::Status& status, const grpc::ClientContext& context);

  CancelToken& cancel() const { return *call_.cancel; }
  // What the server sent back, else what was sent; empty before the first answer.
  const std::string& request_id() const { return request_id_; }
  void NoteRequestId(const grpc::ClientContext& context, bool trailing);

 private:
  CallOptions call_;
  ClientHooks hooks_;
  absl::Time deadline_;
  Backoff backoff_;
  std::string request_id_;
};

}  // namespace quire::client

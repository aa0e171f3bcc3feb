#pragma once

#include <cstdint>
#include <memory>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "core/base/cancellation.h"
#include "core/engine/engine.h"
#include "core/engine/outbox.h"

namespace quire {

// A request's output, pulled instead of pushed: what a handler thread uses. Holds at most
// the request's own output (progress events are merged). One reader thread; Cancel from
// any.
class RequestStream {
 public:
  // Submits to the engine, which must outlive the stream. Errors are Engine::Submit's.
  // `cancellation` (may be null) cancels the request; it must outlive the stream.
  static absl::StatusOr<std::unique_ptr<RequestStream>> Open(Engine& engine,
                                                             EngineRequest request,
                                                             Cancellation* cancellation);
  // Cancels, and waits for the engine to let go of the request.
  ~RequestStream();

  // Waits for the next event. After Finished there is none: do not call again.
  RequestEvent Next();

  // All events there are, at least one; the same end. First sleeps for `pause`, unless
  // the request is finished meanwhile: no token wakes this thread before it would act on
  // it.
  std::vector<RequestEvent> NextAll(absl::Duration pause = absl::ZeroDuration());

 private:
  struct Channel;
  RequestStream(Engine& engine, std::shared_ptr<Channel> channel);
  Engine& engine_;
  RequestId id_{};
  std::shared_ptr<Channel> channel_;
  Cancellation::Registration on_cancel_;
};

}  // namespace quire

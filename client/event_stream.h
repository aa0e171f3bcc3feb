#pragma once

#include <grpcpp/client_context.h>
#include <grpcpp/support/sync_stream.h>

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/call_state.h"

namespace quire::client {

// The events of one server-streaming call, pulled one by one. Nothing is sent before the
// first Next(). Until the first event has come, errors that may pass are tried again as
// the retry policy says; after it they are the caller's. Movable; used by one thread,
// except Cancel(). Destroying it cancels a call that has not ended.
template <class Event>
class EventStream {
 public:
  // Starts one try; never null. The context outlives the reader.
  using Starter = std::function<std::unique_ptr<grpc::ClientReaderInterface<Event>>(
      grpc::ClientContext*)>;

  EventStream(CallState state, Starter start)
      : state_(std::make_unique<CallState>(std::move(state))), start_(std::move(start)) {}
  // A call that was never made, because its arguments are wrong.
  EventStream(CallState state, absl::Status error)
      : state_(std::make_unique<CallState>(std::move(state))), end_(std::move(error)) {}
  EventStream(EventStream&&) noexcept = default;
  EventStream& operator=(EventStream&&) = delete;
  ~EventStream() {
    if (reader_ == nullptr) return;
    context_->TryCancel();
    reader_->Finish();
    attached_.reset();
  }

  // Blocks. nullopt: the call ended well; afterwards the same again. kCancelled: by
  // Cancel() or the token. Any other error is the server's or the network's; see
  // GetErrorDetails().
  absl::StatusOr<std::optional<Event>> Next() {
    while (!end_) {
      if (reader_ == nullptr) Start();
      if (Event event; reader_->Read(&event)) {
        if (!started_) state_->NoteRequestId(*context_, /*trailing=*/false);
        started_ = true;
        return event;
      }
      absl::Status status = Finish();
      if (status.ok() || started_ || !state_->WaitToRetry(status)) end_ = Final(status);
    }
    if (!end_->ok()) return *end_;
    return std::optional<Event>();
  }

  // Next() until the end. An error of the callback's cancels the call and is returned.
  absl::Status ForEach(absl::FunctionRef<absl::Status(const Event&)> callback) {
    while (true) {
      absl::StatusOr<std::optional<Event>> event = Next();
      if (!event.ok()) return event.status();
      if (!event->has_value()) return absl::OkStatus();
      absl::Status status = callback(**event);
      if (status.ok()) continue;
      context_->TryCancel();
      Finish().IgnoreError();
      end_ = status;
      return status;
    }
  }

  // From any thread. Cancels the call's token, and so other calls that share it.
  void Cancel() { state_->cancel().Cancel(); }

  // Known after the first event or the end.
  const std::string& request_id() const { return state_->request_id(); }

 private:
  void Start() {
    context_ = state_->NewContext();
    attached_ = std::make_unique<AttachedContext>(state_->cancel(), *context_);
    reader_ = start_(context_.get());
  }

  absl::Status Finish() {
    const grpc::Status status = reader_->Finish();
    absl::Status result = state_->Finish(status, *context_);
    reader_.reset();
    attached_.reset();
    context_.reset();
    return result;
  }

  // A cancel during the wait for a retry is a cancel, not the error waited for.
  absl::Status Final(const absl::Status& status) const {
    if (status.ok() || !state_->cancel().cancelled()) return status;
    return absl::CancelledError("cancelled");
  }

  std::unique_ptr<CallState>
      state_;  // on the heap: the stream may move while a call runs
  Starter start_;
  // Destroyed in reverse: the reader, its place in the token, the context.
  std::unique_ptr<grpc::ClientContext> context_;
  std::unique_ptr<AttachedContext> attached_;
  std::unique_ptr<grpc::ClientReaderInterface<Event>> reader_;
  bool started_ = false;
  std::optional<absl::Status> end_;
};

}  // namespace quire::client

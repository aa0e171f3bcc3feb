#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>

#include "grpcpp/alarm.h"
#include "grpcpp/server_context.h"
#include "grpcpp/support/byte_buffer.h"
#include "grpcpp/support/server_callback.h"
#include "server/rpc/call_services.h"
#include "server/rpc/output_stream.h"

namespace quire::server {

using StreamHandler = std::function<absl::Status(OutputStream&, CallContext&)>;

// One streaming call: joins gRPC's reactor, the stream rules and a handler on a thread of
// the pool. `Reactor` is gRPC's reactor of byte buffers, with or without reading. Owns
// itself until gRPC's OnDone, and the handler's thread holds it too: make it with
// std::make_shared and call Start once.
template <typename Reactor>
class StreamingCall : public Reactor,
                      public std::enable_shared_from_this<StreamingCall<Reactor>>,
                      private StreamTransport {
 public:
  StreamingCall(CallServices& services, Method method,
                grpc::CallbackServerContext* context)
      : services_(services),
        context_(context),
        call_(services.MakeContext(method, *context)),
        stream_(*this, services.stream_options()) {
    call_.cancellation = &stream_.cancellation();
  }

  // Runs the handler on a thread of the pool, or ends the call with why it cannot be
  // taken.
  void Start(StreamHandler handler) {
    self_ = this->shared_from_this();
    auto ticket =
        services_.Admit(call_, [this](const absl::Status& why) { stream_.End(why); });
    if (!ticket.ok()) return Refuse(ticket.status());
    ticket_.emplace(*std::move(ticket));
    const bool taken = services_.long_calls().TryRun(
        [self = self_, this, handler = std::move(handler)] { Run(handler); });
    if (!taken) Refuse(services_.Full(call_));
  }

  void OnWriteDone(bool ok) override { stream_.OnWriteDone(ok); }

  void OnCancel() override {
    stream_.End(services_.BrokenOffByDeadline(call_)
                    ? absl::DeadlineExceededError("the deadline passed")
                    : absl::CancelledError("the client cancelled the call"));
  }

  void OnDone() override {
    {
      std::lock_guard lock(done_mutex_);
      done_ = true;
    }
    ticket_.reset();
    self_.reset();  // may destroy this
  }

 protected:
  CallServices& services() { return services_; }
  OutputStream& stream() { return stream_; }
  // REQUIRES: called from one of gRPC's reactions.
  bool client_cancelled() const { return context_->IsCancelled(); }

 private:
  void Run(const StreamHandler& handler) {
    absl::Status status = handler(stream_, call_);
    End(stream_.Flush(std::move(status)));
  }

  void Refuse(const absl::Status& status) { End(status); }

  // Reported first: who has seen the call end finds it in the metrics.
  void End(const absl::Status& status) {
    services_.Report(call_, status);
    stream_.Finish(status);
  }

  void StartWrite(const grpc::ByteBuffer* message) override {
    Reactor::StartWrite(message);
  }

  void Finish(const grpc::Status& status, bool reader_stalled) override {
    Reactor::Finish(status);
    if (!reader_stalled) return;
    // The status cannot pass the data that the client does not take: give it as long
    // again.
    alarm_.emplace();
    alarm_->Set(absl::ToChronoTime(absl::Now() + services_.stream_options().write_stall),
                [weak = this->weak_from_this()](bool) {
                  if (const auto self = weak.lock()) self->BreakOff();
                });
  }

  void BreakOff() {
    std::lock_guard lock(done_mutex_);
    if (!done_) context_->TryCancel();
  }

  CallServices& services_;
  grpc::CallbackServerContext* const context_;  // until OnDone
  CallContext call_;
  OutputStream stream_;
  std::optional<ServingState::Ticket> ticket_;
  std::mutex done_mutex_;  // guards done_
  bool done_ = false;
  std::optional<grpc::Alarm> alarm_;
  std::shared_ptr<StreamingCall> self_;
};

}  // namespace quire::server

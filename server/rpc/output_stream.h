#pragma once

#include <condition_variable>
#include <deque>
#include <mutex>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "core/base/cancellation.h"
#include "grpcpp/support/byte_buffer.h"
#include "grpcpp/support/status.h"

namespace quire::server {

// What an OutputStream needs of gRPC. Called with the stream's lock held: must not call
// back on the same thread.
class StreamTransport {
 public:
  virtual ~StreamTransport() = default;
  // The message stays unchanged until OnWriteDone.
  virtual void StartWrite(const grpc::ByteBuffer* message) = 0;
  // The last call. reader_stalled: a write is still in flight and may never end; the
  // transport breaks the connection off if the client does not take the rest in time.
  virtual void Finish(const grpc::Status& status, bool reader_stalled) = 0;
};

struct OutputStreamOptions {
  int max_queued = 16;  // events that wait while one is written
  absl::Duration write_stall = absl::Seconds(30);
};

// The rules of every stream of answers, in one place: events are queued up to a bound,
// one write is in flight, a client that went away, a passed deadline or a drain cancels
// the computation, and a client that does not take an event in time is left.
//
// One handler thread calls Write, Flush and Finish; OnWriteDone and End come from any
// thread. Has its own lock.
class OutputStream {
 public:
  // The transport must outlive the stream.
  OutputStream(StreamTransport& transport, const OutputStreamOptions& options)
      : transport_(transport), options_(options) {}

  // Queues an event; blocks while the queue is full. Returns why the call was ended, if
  // it was (kAborted: the client does not read): the handler should stop.
  absl::Status Write(grpc::ByteBuffer event);

  // Waits until all events are written. Returns what the call shall end with: the reason
  // given to End, if any, else `status`.
  absl::Status Flush(absl::Status status);

  // Ends the call. REQUIRES: after Flush; once; no Write after it.
  void Finish(const absl::Status& status);

  // Gives the call up: `why` becomes its status (the first one wins) and cancellation()
  // is cancelled.
  void End(absl::Status why);
  // Cancelled when the call is given up.
  Cancellation& cancellation() { return cancellation_; }

  // The write in flight is done; not ok: the client is gone.
  void OnWriteDone(bool ok);

 private:
  bool EndLocked(absl::Status why);
  void WriteNext();
  // Waits until `ready`, the call is ended, or the write in flight takes too long, which
  // ends it.
  template <typename Ready>
  absl::Status WaitUntil(Ready ready);

  StreamTransport& transport_;
  const OutputStreamOptions options_;
  Cancellation cancellation_;

  std::mutex mutex_;  // guards all below
  std::condition_variable changed_;
  std::deque<grpc::ByteBuffer> queue_;
  grpc::ByteBuffer current_;
  bool in_flight_ = false;
  absl::Time write_started_;
  bool stalled_ = false;
  absl::Status why_;  // not OK: the call was given up
};

}  // namespace quire::server

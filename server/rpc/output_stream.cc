#include "server/rpc/output_stream.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "server/rpc/status.h"

namespace quire::server {

// System time, as condition variables and gRPC know no other: a stall is about a real
// client.
template <typename Ready>
absl::Status OutputStream::WaitUntil(Ready ready) {
  absl::Status stall;
  {
    std::unique_lock lock(mutex_);
    while (why_.ok()) {
      const absl::Time limit = write_started_ + options_.write_stall;
      if (in_flight_ && absl::Now() >= limit) {
        stalled_ = true;
        stall = WithReason(absl::AbortedError(absl::StrCat(
                               "the client took no event for write_stall_seconds (",
                               absl::FormatDuration(options_.write_stall), ")")),
                           "SLOW_READER");
        EndLocked(stall);
        break;
      }
      if (ready()) return absl::OkStatus();
      // Nothing is ready only while a write is in flight.
      changed_.wait_until(lock, absl::ToChronoTime(limit));
    }
    if (stall.ok()) return why_;
  }
  cancellation_.Cancel();
  return stall;
}

absl::Status OutputStream::Write(grpc::ByteBuffer event) {
  absl::Status status = WaitUntil(
      [this] { return queue_.size() < static_cast<size_t>(options_.max_queued); });
  if (!status.ok()) return status;
  std::lock_guard lock(mutex_);
  queue_.push_back(std::move(event));
  if (!in_flight_) WriteNext();
  return absl::OkStatus();
}

absl::Status OutputStream::Flush(absl::Status status) {
  const absl::Status why = WaitUntil([this] { return queue_.empty() && !in_flight_; });
  return why.ok() ? status : why;
}

void OutputStream::Finish(const absl::Status& status) {
  std::lock_guard lock(mutex_);
  queue_.clear();
  transport_.Finish(ToGrpcStatus(status), stalled_ && in_flight_);
}

void OutputStream::End(absl::Status why) {
  {
    std::lock_guard lock(mutex_);
    if (!EndLocked(std::move(why))) return;
  }
  cancellation_.Cancel();
}

bool OutputStream::EndLocked(absl::Status why) {
  if (!why_.ok()) return false;
  why_ = std::move(why);
  changed_.notify_all();
  return true;
}

void OutputStream::WriteNext() {
  current_ = std::move(queue_.front());
  queue_.pop_front();
  in_flight_ = true;
  write_started_ = absl::Now();
  transport_.StartWrite(&current_);
}

void OutputStream::OnWriteDone(bool ok) {
  if (!ok) End(absl::CancelledError("the client is gone"));
  std::lock_guard lock(mutex_);
  in_flight_ = false;
  // A stalled call must not start another write once Finish may have been called.
  if (why_.ok() && !queue_.empty()) WriteNext();
  changed_.notify_all();
}

}  // namespace quire::server

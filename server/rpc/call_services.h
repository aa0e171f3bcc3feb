#pragma once

#include <functional>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/base/clock.h"
#include "grpcpp/server_context.h"
#include "server/observability/log.h"
#include "server/observability/metrics.h"
#include "server/page/request_log.h"
#include "server/rpc/call_context.h"
#include "server/rpc/output_stream.h"
#include "server/rpc/serving_state.h"
#include "server/rpc/worker_pool.h"

namespace quire::server {

struct CallServicesOptions {
  // Calls that a model computes at a time, and that may wait beyond those.
  int max_running = 256;
  int max_waiting = 64;
  int models = 1;
  ServiceLimits limits;
  ServiceDefaults defaults;
  ServiceTerms terms;
  OutputStreamOptions stream;
  absl::Duration batch_idle =
      absl::Minutes(5);  // a ScoreBatch call that sends nothing ends
};

// What every call needs of the server, whatever it does: who it is, whether it may come
// in, where it runs, and a report when it ends. Thread-safe.
class CallServices {
 public:
  // All must outlive this. `requests` may be null: nobody keeps what calls came to.
  CallServices(const CallServicesOptions& options, ServingState& state, Metrics& metrics,
               Log& log, const Clock& clock, RequestLog* requests = nullptr);

  // Who calls, since when and until when. Sends the request id back to the client.
  CallContext MakeContext(Method method, grpc::CallbackServerContext& context) const;

  // Lets the call in while the server serves; `end` gives it up, see ServingState.
  // kUnavailable while loading or draining, kDeadlineExceeded if it comes too late,
  // kInvalidArgument for metadata that cannot be.
  absl::StatusOr<ServingState::Ticket> Admit(
      CallContext& call, std::function<void(const absl::Status&)> end);

  // Threads of calls that compute: as many as calls may be in work, so none waits for a
  // thread.
  WorkerPool& long_calls() { return long_calls_; }
  // Threads of calls that only look things up; never behind those that compute.
  WorkerPool& short_calls() { return short_calls_; }
  // kResourceExhausted with RetryInfo: a pool did not take the call.
  absl::Status Full(const CallContext& call);

  bool PassedDeadline(const CallContext& call) const;
  // Whether a call that the client broke off now was broken off by its deadline: the
  // client's clock runs out first, as gRPC rounds the time left up by as much as 1 %.
  bool BrokenOffByDeadline(const CallContext& call) const;

  // The call's line in the log, its part in the metrics and, if it computes, its record
  // for the page. Once for each call.
  void Report(const CallContext& call, const absl::Status& status);

  const OutputStreamOptions& stream_options() const { return options_.stream; }
  const ServiceLimits& limits() const { return options_.limits; }
  absl::Duration batch_idle() const { return options_.batch_idle; }

 private:
  const CallServicesOptions options_;
  ServingState& state_;
  Metrics& metrics_;
  Log& log_;
  const Clock& clock_;
  RequestLog* const requests_;
  mutable AnsweredCalls answered_;
  WorkerPool short_calls_;
  WorkerPool long_calls_;
};

}  // namespace quire::server

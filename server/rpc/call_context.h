#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "core/base/cancellation.h"
#include "core/base/clock.h"
#include "core/dga/attention_options.h"
#include "core/engine/request.h"
#include "server/method.h"
#include "server/model_registry.h"
#include "server/observability/log.h"
#include "server/observability/metrics.h"
#include "server/page/progress_trace.h"

namespace quire::server {

// Limits of requests that are the server's choice.
struct ServiceLimits {
  int64_t max_text_bytes = 64 << 20;
};

// What requests mean by not saying it.
struct ServiceDefaults {
  AttentionOptions attention;
};

// The server's terms, which no request can change.
struct ServiceTerms {
  // After a piece of text so long passes before the next one, which then has all tokens
  // since; 0: a piece a token.
  absl::Duration stream_interval = absl::Milliseconds(10);
  // Of all calls that are being answered together: with many of them the interval grows,
  // so that telling keeps to its share of the processor. Positive.
  int32_t stream_events_per_second = 1000;
  double price_per_device_hour = 0;  // USD; 0: not set
};

// How many calls are being answered: from their first token to their end. Thread-safe.
class AnsweredCalls {
 public:
  void Begin() { count_.fetch_add(1, std::memory_order_relaxed); }
  void End() { count_.fetch_sub(1, std::memory_order_relaxed); }
  int count() const { return count_.load(std::memory_order_relaxed); }

 private:
  std::atomic<int> count_ = 0;
};

// What one call knows of itself and its surroundings. Made by the transport, filled by
// the handler, reported when the call ends. Used by one thread at a time.
struct CallContext {
  Method method;
  std::string request_id;
  absl::Time arrival;
  absl::Time deadline = absl::InfiniteFuture();
  const ModelRegistry* models = nullptr;  // null only before the call was admitted
  ServiceLimits limits;
  ServiceDefaults defaults;
  ServiceTerms terms;
  std::string tenant;
  absl::Status wrong_metadata;  // not OK: what the call is refused with
  bool draining = false;
  const Clock* clock = nullptr;
  Metrics* metrics = nullptr;
  AnsweredCalls* answered = nullptr;
  Cancellation* cancellation = nullptr;  // null for unary calls
  Activity* activity = nullptr;          // the model's, once it is known; may be null
  std::function<uint64_t()> random_seed;

  // What the call has come to.
  CallStage stage = CallStage::kQueue;
  std::string model;
  Usage usage;
  Timings timings;
  std::optional<absl::Duration> time_to_first_token;
  AttentionReceipt attention;
  DeviceTime device;
  std::vector<int64_t> head_columns;  // see Finished
  ProgressTrace trace;

  void OnProgress(TracePhase phase, int32_t pass, int64_t done_tokens,
                  int64_t total_tokens);
  // The first time only, reports the time to first token.
  void OnFirstToken();
  // What a request to this model means by not saying how it shall be read.
  AttentionOptions AttentionDefaults(const ServedModel& model) const;
  // From one piece of text to the next, as many calls being answered as now.
  absl::Duration TextInterval() const;
  absl::Duration Elapsed() const { return clock->Now() - arrival; }
};

inline void CallContext::OnFirstToken() {
  if (time_to_first_token.has_value()) return;
  time_to_first_token = Elapsed();
  answered->Begin();  // until CallServices::Report
  metrics->OnFirstToken(method, *time_to_first_token);
  if (activity != nullptr) activity->OnFirstToken(*time_to_first_token);
}

inline void CallContext::OnProgress(TracePhase phase, int32_t pass, int64_t done_tokens,
                                    int64_t total_tokens) {
  trace.Add({absl::ToDoubleSeconds(Elapsed()), phase, pass, done_tokens, total_tokens});
}

inline AttentionOptions CallContext::AttentionDefaults(const ServedModel& model) const {
  AttentionOptions attention = defaults.attention;
  attention.refined_pays_from = model.refined_pays_from;
  return attention;
}

inline absl::Duration CallContext::TextInterval() const {
  if (terms.stream_interval == absl::ZeroDuration()) return absl::ZeroDuration();
  return std::max(terms.stream_interval,
                  absl::Seconds(answered->count()) / terms.stream_events_per_second);
}

}  // namespace quire::server

#pragma once

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "core/base/clock.h"
#include "core/engine/request.h"
#include "core/kv/block_pool.h"
#include "core/step/step.h"

namespace quire {

// What the engine must know of the model to refuse what cannot work.
struct ModelLimits {
  int32_t vocab_size = 0;
  int32_t max_positions = 0;  // tokens
};

struct EngineOptions {
  KvGeometry kv;
  ModelLimits model;
  int32_t chunk_tokens = 512;  // prompt tokens computed between two looks at cancel
  int32_t max_waiting = 64;    // requests that may wait; one more is refused
  int64_t block_bytes = 0;     // keys and values of one cache block, for receipts
  absl::Status Validate() const;
};

struct EngineStats {
  int32_t running = 0;
  int32_t waiting = 0;
  int64_t waiting_tokens = 0;  // prompt tokens of the waiting requests
  int32_t free_blocks = 0;
  int32_t num_blocks = 0;
};

// One step of one request.
struct StepReport {
  absl::Duration elapsed;
  int32_t prompt_tokens = 0;     // 0: the step decoded
  int32_t generated_tokens = 0;  // with the prompt's last chunk, or by decoding
  AttentionMode mode = AttentionMode::kDense;  // of this step
  AttentionStats attention;
};

// Told about the engine's work. Called from the engine thread; must not block.
class EngineObserver {
 public:
  virtual ~EngineObserver() = default;
  // The reports of a request's steps add up to its receipt.
  virtual void OnStep(const StepReport& step) = 0;
  // A request that was started is over, well or not; before its sink hears of it.
  virtual void OnFinished(const AttentionReceipt& attention) = 0;
};

// Runs requests on one model with one thread, first come first served. All methods are
// thread-safe.
class Engine {
 public:
  // Starts the engine thread. observer may be null; it and clock must outlive the engine.
  static absl::StatusOr<std::unique_ptr<Engine>> Start(
      const EngineOptions& options, std::unique_ptr<ModelRunner> runner,
      EngineObserver* observer, const Clock& clock);
  // Finishes every request with kCancelled, then joins.
  virtual ~Engine() = default;

  // Never blocks. On error the sink is destroyed unused.
  // kInvalidArgument: names the field, the limit and the value; kDeadlineExceeded: the
  // deadline is past; kResourceExhausted: waiting room full, or the request can never fit
  // the cache (both sizes named); kUnavailable: draining.
  virtual absl::StatusOr<RequestId> Submit(EngineRequest request,
                                           std::unique_ptr<RequestSink> sink) = 0;

  // Idempotent; unknown ids are ignored. The sink still gets its OnFinished(kCancelled),
  // at the latest after the step in flight.
  virtual void Cancel(RequestId id) = 0;

  // Refuses new requests, lets accepted ones finish until `deadline`, cancels the rest,
  // and returns when none is left.
  virtual void Drain(absl::Time deadline) = 0;

  virtual EngineStats stats() const = 0;
};

}  // namespace quire

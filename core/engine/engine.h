#pragma once

#include <array>
#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "core/base/clock.h"
#include "core/engine/request.h"
#include "core/kv/block_pool.h"
#include "core/schedule/scheduler.h"
#include "core/schedule/step_cost.h"
#include "core/step/step.h"

namespace quire {

// What the engine must know of the model to refuse what cannot work.
struct ModelLimits {
  int32_t vocab_size = 0;
  int32_t max_positions = 0;  // tokens
};

// Who may begin with pages of keys and values that another request has computed. Between
// tenants the time to the first token would tell what others have sent.
enum class PrefixCaching : uint8_t { kOff, kPerTenant, kShared };

// What is done with a request whose deadline cannot be met, by the estimate.
enum class AdmissionMode : uint8_t { kOff, kReport, kEnforce };

struct EngineOptions {
  KvGeometry kv;
  ModelLimits model;
  int32_t chunk_tokens = 512;                     // rows of a step, >= max_running
  int32_t max_running = 256;                      // requests that are computed at a time
  int32_t max_waiting = 64;                       // requests that may wait beyond those
  int64_t max_waiting_tokens = int64_t{1} << 20;  // prompt tokens of those that wait
  int32_t long_prompt_tokens = 4096;  // see ScheduleOptions, as the next three
  int32_t max_long_prefills = 2;
  int32_t decode_stretch_percent = 180;
  absl::Duration max_step = absl::Milliseconds(250);
  PrefixCaching prefix_caching = PrefixCaching::kPerTenant;
  AdmissionMode admission = AdmissionMode::kOff;
  StepCost step_cost = DefaultStepCost();  // where learning begins, see MeasureStepCost
  int64_t block_bytes = 0;  // keys and values of one cache block, for receipts
  // kInvalidArgument names the field, its limit and its value.
  absl::Status Validate() const;
};

struct EngineStats {
  int32_t running = 0;
  int32_t waiting = 0;
  int64_t waiting_tokens = 0;  // prompt tokens of the waiting requests
  int32_t free_blocks = 0;     // that nobody holds; cached ones included
  int32_t cached_blocks = 0;   // that hold pages of the prefix cache
  int32_t num_blocks = 0;
  int32_t tenants = 0;               // that have requests
  absl::Duration prefill_backlog;    // until all accepted prompts are read, estimated
  absl::Duration first_token_delay;  // of a short request that came now, estimated
  // Since the start.
  int64_t steps = 0;
  int64_t plans_ahead = 0;    // steps that were planned while the one before was computed
  int64_t prompt_tokens = 0;  // computed
  int64_t cached_tokens = 0;  // found in the prefix cache instead
  int64_t generated_tokens = 0;
  int64_t preemptions = 0;
  // Over the last ten seconds.
  double prompt_tokens_per_second = 0;
  double generated_tokens_per_second = 0;
  StepCost step_cost;          // as learned
  double step_cost_error = 0;  // StepCostFit::error
  // OK, or how the device was lost: all requests failed with this, new ones are refused.
  absl::Status device;
};

// What a request not yet made would be, as far as its cost goes.
struct RequestShape {
  int64_t prompt_tokens = 1;
  int64_t cached_tokens = 0;  // of these, that the prefix cache has
  int64_t new_tokens = 0;     // at most; 0: scoring
  AttentionOptions attention;
  absl::Time deadline = absl::InfiniteFuture();
  Scheduling scheduling;
};

struct RequestEstimate {
  absl::Duration first_token;  // from now, with the load of now
  absl::Duration end;
  absl::Duration first_token_alone;  // on an idle engine
  absl::Duration end_alone;
  double expected_answer_share = 1;  // of new_tokens, from the answers so far
};

inline constexpr int kAttentionModes = 4;

// One step.
struct StepReport {
  absl::Duration elapsed;
  int32_t sequences = 0;
  int32_t prompt_tokens = 0;  // computed for the first time
  int32_t generated_tokens = 0;
  int32_t recomputed_tokens = 0;  // again, after a preemption
  // Of the sequences of each mode, while they read their prompts and while they decode.
  std::array<AttentionStats, kAttentionModes> prefill;
  std::array<AttentionStats, kAttentionModes> decode;
  // The step's time, divided among its sequences by what each was expected to cost.
  std::array<absl::Duration, kAttentionModes> prefill_time;
  std::array<absl::Duration, kAttentionModes> decode_time;
  // Of each sequence that chose a token: since its last one.
  absl::Span<const absl::Duration> inter_token;
  // The work of background requests (EngineRequest::background) and of no others: no
  // user's.
  bool background = false;
  int64_t rows = 0;       // tokens that were computed, for whatever reason
  int64_t head_rows = 0;  // of these, whose next token was chosen or scored
};

enum class RequestStage : uint8_t { kQueue, kPrefill, kDecode };

// A request that was accepted is over, well or not.
struct FinishReport {
  absl::StatusCode code = absl::StatusCode::kOk;
  RequestStage stage = RequestStage::kQueue;  // that it was in
  bool started = false;
  Usage usage;
  const AttentionReceipt& attention;
  int64_t wasted_tokens = 0;  // computed for an answer that nobody got
  int32_t preemptions = 0;
  // Real over estimated time to the first token and to the end; 0: not known.
  double first_token_ratio = 0;
  double end_ratio = 0;
  DeviceTime device;
  bool background = false;
  absl::string_view tenant;
};

// Told about the engine's work. Called from the engine thread, OnWouldRefuse from those
// that submit; must neither block nor call the engine.
class EngineObserver {
 public:
  virtual ~EngineObserver() = default;
  // The reports of all steps add up to the receipts of all requests.
  virtual void OnStep(const StepReport& step) = 0;
  // Before the request's sink hears of it.
  virtual void OnFinished(const FinishReport& finished) = 0;
  // AdmissionMode::kReport: this request would have been refused.
  virtual void OnWouldRefuse() {}
  // Every plan, with what it was made from: what a trace records.
  virtual void OnPlan(const ScheduleOptions& /*options*/, const ScheduleState& /*state*/,
                      const StepPlan& /*plan*/) {}
};

// Why Submit or CheckAdmission said kResourceExhausted.
enum class Refusal : uint8_t {
  kNone,              // another error
  kTooLarge,          // never fits the cache
  kWaitingRoomFull,   // too many requests or too many tokens wait
  kDeadlineTooClose,  // by the estimate
};
Refusal RefusalOf(const absl::Status& status);

// Runs requests on one model: continuous batching, one engine thread (and one that hands
// the results out). All methods are thread-safe.
class Engine {
 public:
  // Starts the engine's threads. observer may be null; it and clock must outlive the
  // engine. kInvalidArgument: options.
  static absl::StatusOr<std::unique_ptr<Engine>> Start(
      const EngineOptions& options, std::unique_ptr<ModelRunner> runner,
      EngineObserver* observer, const Clock& clock);
  // Finishes every request with kCancelled, then joins.
  virtual ~Engine() = default;

  // Never waits for a step. On error the sink is destroyed unused.
  // kInvalidArgument: names the field, the limit and the value; kDeadlineExceeded: the
  // deadline is past; kResourceExhausted: see Refusal, sizes and times are named;
  // kUnavailable: draining, or the device is lost.
  virtual absl::StatusOr<RequestId> Submit(EngineRequest request,
                                           std::unique_ptr<RequestSink> sink) = 0;

  // Whether a request like this may be accepted now; errors as Submit's. Takes nothing:
  // for callers that would have much to do before they could submit. What the prefix
  // cache has of a text that is not known yet cannot be known either: where there is one,
  // the deadline is only compared with what others still have to do.
  virtual absl::Status CheckAdmission(const RequestShape& shape) const = 0;

  virtual RequestEstimate Estimate(const RequestShape& shape) const = 0;

  // Idempotent; unknown ids are ignored. The sink still gets its OnFinished(kCancelled),
  // and the blocks are free, at the latest after the step in flight.
  virtual void Cancel(RequestId id) = 0;

  // Refuses new requests, lets accepted ones finish until `deadline`, cancels the rest,
  // and returns when none is left.
  virtual void Drain(absl::Time deadline) = 0;

  virtual EngineStats stats() const = 0;
};

}  // namespace quire

#include "core/engine/engine.h"

#include <algorithm>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/check.h"
#include "core/base/status_macros.h"
#include "core/engine/admission.h"
#include "core/engine/batch.h"
#include "core/engine/outbox.h"
#include "core/engine/refuse.h"
#include "core/engine/request_limits.h"
#include "core/engine/step_reporter.h"

namespace quire {
namespace {

// A runner that launches single new tokens within this time is given them before their
// readers are told of the last ones: by so much these are told later.
constexpr absl::Duration kSoon = absl::Microseconds(200);

Timings TimingsOf(const BatchRequest& request, absl::Time now) {
  const absl::Time started = request.started.value_or(now);
  const absl::Time prefilled = request.prefilled.value_or(now);
  const auto span = [](absl::Time from, absl::Time to) {
    return std::max(to - from, absl::ZeroDuration());  // clocks are set back now and then
  };
  return {.queue = span(request.accepted, started),
          .prefill = span(started, prefilled),
          .decode = span(prefilled, now)};
}

class BatchingEngine final : public Engine {
 public:
  BatchingEngine(const EngineOptions& options, std::unique_ptr<ModelRunner> runner,
                 EngineObserver* observer, const Clock& clock)
      : options_(options),
        runner_(std::move(runner)),
        clock_(clock),
        batch_(options),
        reporter_(observer),
        admission_(options_, batch_.schedule(), reporter_),
        thread_([this] { Run(); }) {}

  ~BatchingEngine() override {
    {
      std::lock_guard lock(mutex_);
      stopping_ = true;
      work_.notify_one();
    }
    thread_.join();
  }

  absl::StatusOr<RequestId> Submit(EngineRequest request,
                                   std::unique_ptr<RequestSink> sink) override;
  absl::Status CheckAdmission(const RequestShape& shape) const override;
  RequestEstimate Estimate(const RequestShape& shape) const override {
    return admission_.Estimate(shape, clock_.Now());
  }
  absl::StatusOr<RequestId> SubmitBackground(EngineRequest& request,
                                             std::unique_ptr<RequestSink>& sink,
                                             absl::Time now);
  void Cancel(RequestId id) override;
  void Drain(absl::Time deadline) override;
  EngineStats stats() const override;

 private:
  using Results = absl::StatusOr<std::vector<StepResult>>;
  struct Ended {
    RequestId id{};
    absl::Status status;
    FinishReason reason{};
  };

  // Whether requests may come. REQUIRES: mutex_ is held.
  absl::Status CheckOpenLocked() const;

  // All below run on the engine thread.
  void Run();
  bool WaitForWork();
  void TakeIncoming();
  bool FinishEnded();
  bool Step();
  Results CallRunner(const StepInput& input);
  void Conclude(const Batch::Planned& planned, Results results, absl::Time began);
  std::optional<Ended> ConcludeItem(StepResult result, const StepItem& item,
                                    BatchRequest& request, const ItemTime& time,
                                    absl::Time now);
  void FindEnded(absl::Time now, std::vector<Ended>& ended);
  void LoseDevice(absl::Status status);
  void Learn(BatchRequest& request, const absl::Status& status, absl::Time now);
  void Finish(RequestId id, absl::Status status, FinishReason reason, absl::Time now);
  absl::Status EndOf(const BatchRequest& request, absl::Time now) const;
  void PublishPlan(Batch::Planned& planned);
  bool HasWork() const { return !batch_.requests().empty() || batch_.background(); }
  void Publish();
  void PublishAndDeliver();

  const EngineOptions options_;
  const std::unique_ptr<ModelRunner> runner_;
  const Clock& clock_;

  Batch batch_;            // the engine thread's
  StepReporter reporter_;  // the engine thread's, but for OnWouldRefuse
  Admission admission_;    // has its own lock
  // The last step was launched within kSoon. The engine thread's; see Run and Step.
  bool launches_soon_ = false;

  mutable std::mutex mutex_;  // guards all below
  std::condition_variable work_;
  std::condition_variable idle_;
  std::vector<std::unique_ptr<BatchRequest>> incoming_;
  std::vector<RequestId> cancelled_;
  uint64_t last_id_ = 0;
  int64_t unfinished_ = 0;   // accepted, and OnFinished has not returned
  bool background_ = false;  // there is a background request
  absl::Status device_;      // OK, or how it was lost
  bool stopping_ = false;
  bool draining_ = false;
  absl::Time drain_deadline_ = absl::InfiniteFuture();

  Outbox outbox_;       // the engine thread's; its letters use what is above
  std::thread thread_;  // last: it uses all of the above
};

// ------------------------------------------------------------------------ any thread

EngineStats BatchingEngine::stats() const {
  EngineStats stats = admission_.stats(clock_.Now());
  std::lock_guard lock(mutex_);
  stats.device = device_;
  return stats;
}

absl::Status BatchingEngine::CheckOpenLocked() const {
  if (draining_) return absl::UnavailableError("the engine is draining");
  if (device_.ok()) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat("the device is lost: ", device_.message()));
}

absl::Status BatchingEngine::CheckAdmission(const RequestShape& shape) const {
  const absl::Time now = clock_.Now();
  QUIRE_RETURN_IF_ERROR(CheckShape(shape, options_, now));
  {
    std::lock_guard lock(mutex_);
    QUIRE_RETURN_IF_ERROR(CheckOpenLocked());
  }
  return admission_.Check(shape, now).status();
}

absl::StatusOr<RequestId> BatchingEngine::Submit(EngineRequest request,
                                                 std::unique_ptr<RequestSink> sink) {
  QUIRE_CHECK(sink != nullptr);
  const absl::Time now = clock_.Now();
  QUIRE_RETURN_IF_ERROR(CheckRequest(request, options_, now));
  if (request.background.has_value()) return SubmitBackground(request, sink, now);
  RequestShape shape = ShapeOf(request);
  Sequence sequence = MakeSequence(std::move(request.work));
  shape.cached_tokens = std::visit(
      [&](const auto& s) {
        return batch_.CachedTokens(shape.scheduling.tenant, shape.attention, s.known(),
                                   s.cacheable_tokens());
      },
      sequence);
  auto accepted = std::make_unique<BatchRequest>(
      BatchRequest{.sequence = std::move(sequence),
                   .sink = std::move(sink),
                   .deadline = request.deadline,
                   .accepted = now,
                   .scheduling = std::move(request.scheduling),
                   .scheduled = ScheduledOf(shape, now)});
  std::lock_guard lock(mutex_);
  QUIRE_RETURN_IF_ERROR(CheckOpenLocked());
  QUIRE_ASSIGN_OR_RETURN(accepted->estimate, admission_.Take(shape, now));
  const RequestId id{++last_id_};
  accepted->id = id;
  incoming_.push_back(std::move(accepted));
  ++unfinished_;
  work_.notify_one();
  return id;
}

absl::StatusOr<RequestId> BatchingEngine::SubmitBackground(
    EngineRequest& request, std::unique_ptr<RequestSink>& sink, absl::Time now) {
  RequestShape shape = ShapeOf(request);
  auto accepted = std::make_unique<BatchRequest>(
      BatchRequest{.sequence = MakeSequence(std::move(request.work)),
                   .sink = std::move(sink),
                   .deadline = request.deadline,
                   .accepted = now,
                   .scheduling = std::move(request.scheduling),
                   .scheduled = ScheduledOf(shape, now),
                   .background = request.background});
  std::lock_guard lock(mutex_);
  QUIRE_RETURN_IF_ERROR(CheckOpenLocked());
  if (background_) {
    return Refuse(Refusal::kWaitingRoomFull, "a background request is in work already");
  }
  background_ = true;
  const RequestId id{++last_id_};
  accepted->id = id;
  incoming_.push_back(std::move(accepted));
  ++unfinished_;
  work_.notify_one();
  return id;
}

void BatchingEngine::Cancel(RequestId id) {
  std::lock_guard lock(mutex_);
  cancelled_.push_back(id);
  work_.notify_one();
}

void BatchingEngine::Drain(absl::Time deadline) {
  std::unique_lock lock(mutex_);
  draining_ = true;
  drain_deadline_ = std::min(drain_deadline_, deadline);
  work_.notify_one();
  idle_.wait(lock, [this] { return unfinished_ == 0; });
}

// -------------------------------------------------------------------- engine thread

void BatchingEngine::Run() {
  runner_->Prepare();
  while (WaitForWork()) {
    TakeIncoming();
    if (FinishEnded()) PublishAndDeliver();
    const bool stepped = Step();
    if (!stepped || !launches_soon_ || !HasWork()) PublishAndDeliver();
    // Only for what a cancelled or expired request may free, or a plan that was too bold.
    if (!stepped && HasWork()) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  }
}

bool BatchingEngine::WaitForWork() {
  std::unique_lock lock(mutex_);
  const auto has_work = [this] { return HasWork() || !incoming_.empty(); };
  work_.wait(lock, [&] { return stopping_ || has_work(); });
  return has_work();
}

void BatchingEngine::TakeIncoming() {
  std::vector<std::unique_ptr<BatchRequest>> incoming;
  {
    std::lock_guard lock(mutex_);
    incoming.swap(incoming_);
  }
  for (auto& request : incoming) batch_.Add(std::move(request));
}

absl::Status BatchingEngine::EndOf(const BatchRequest& request, absl::Time now) const {
  if (stopping_) return absl::CancelledError("the engine stops");
  if (!device_.ok()) return device_;
  if (draining_ && request.background) {
    return absl::CancelledError("the engine is draining");
  }
  if (request.deadline <= now) {
    return absl::DeadlineExceededError(
        absl::StrCat("the deadline passed after ",
                     absl::FormatDuration(request.deadline - request.accepted),
                     request.started ? "" : ", while the request was waiting"));
  }
  if (drain_deadline_ <= now) {
    return absl::CancelledError("the engine was draining and its time was up");
  }
  return absl::OkStatus();
}

// Before every step: who was cancelled, is late, or must go because the engine does.
bool BatchingEngine::FinishEnded() {
  const absl::Time now = clock_.Now();
  std::vector<Ended> ended;
  {
    std::lock_guard lock(mutex_);
    // A request that still comes in is cancelled when it has.
    std::vector<RequestId> later;
    for (const RequestId id : cancelled_) {
      if (batch_.Find(id) != nullptr) {
        ended.push_back({id, absl::CancelledError("the request was cancelled")});
      } else if (std::any_of(incoming_.begin(), incoming_.end(),
                             [&](const auto& r) { return r->id == id; })) {
        later.push_back(id);
      }
    }
    cancelled_ = std::move(later);
    FindEnded(now, ended);
  }
  for (Ended& end : ended) {
    if (batch_.Find(end.id) != nullptr) Finish(end.id, std::move(end.status), {}, now);
  }
  return !ended.empty();
}

void BatchingEngine::FindEnded(absl::Time now, std::vector<Ended>& ended) {
  for (const auto& request : batch_.requests()) {
    absl::Status status = EndOf(*request, now);
    if (!status.ok()) ended.push_back({request->id, std::move(status)});
  }
  const BatchRequest* background = batch_.background();
  if (background == nullptr) return;
  absl::Status status = EndOf(*background, now);
  if (status.ok() && batch_.evicted()) {
    status = absl::AbortedError(
        "the request is of the background, and others need its "
        "key/value cache");
  }
  if (!status.ok()) ended.push_back({background->id, std::move(status)});
}

// False: nothing could be computed.
bool BatchingEngine::Step() {
  if (!HasWork()) return false;
  Batch::Planned planned = batch_.Plan(clock_.Now());
  bool told = false;
  const auto tell = [&] {
    if (std::exchange(told, true)) return;
    PublishPlan(planned);
    PublishAndDeliver();
  };
  const bool any = !planned.input.items.empty();
  const bool decodes = planned.features.rows == planned.features.sequences;
  if (!any || !decodes || !launches_soon_) tell();
  if (!any) return false;
  const absl::Time began = clock_.Now();
  for (BatchRequest* request : planned.requests) {
    if (!request->started) request->started = began;
  }
  launches_soon_ = false;
  planned.input.meanwhile = [&]() noexcept {
    launches_soon_ = clock_.Now() - began <= kSoon;
    tell();
    batch_.PlanAhead(clock_.Now());
  };
  Results results = CallRunner(planned.input);
  tell();
  Conclude(planned, std::move(results), began);
  return true;
}

void BatchingEngine::PublishPlan(Batch::Planned& planned) {
  reporter_.OnPlan(batch_.schedule(), planned);
  // A step that is tried again, item by item, was not planned from anything.
  if (planned.state.requests.empty()) return;
  admission_.PublishState(std::move(planned.state), batch_.tenants());
}

// A runner that breaks its promise fails the step's requests, not the process.
BatchingEngine::Results BatchingEngine::CallRunner(const StepInput& input) {
  try {
    Results results = runner_->Step(input);
    if (!results.ok()) return results;
    const bool matches = std::equal(
        results->begin(), results->end(), input.items.begin(), input.items.end(),
        [](const auto& result, const auto& item) { return result.id == item.id; });
    if (!matches)
      return absl::InternalError("the model runner's results are of other items");
    return results;
  } catch (const std::exception& error) {
    return absl::InternalError(absl::StrCat("the model runner threw: ", error.what()));
  } catch (...) {
    return absl::InternalError("the model runner threw something");
  }
}

void BatchingEngine::Conclude(const Batch::Planned& planned, Results results,
                              absl::Time began) {
  const absl::Time now = clock_.Now();
  if (!results.ok()) {
    if (absl::IsDataLoss(results.status())) return LoseDevice(results.status());
    if (batch_.Failed(planned)) return;
    return Finish(planned.input.items.front().id, std::move(results).status(), {}, now);
  }
  // By the prices that the step was planned with.
  const std::vector<ItemTime> times = batch_.Divide(planned, now - began);
  batch_.Succeeded(planned, now - began);
  reporter_.Begin(now, now - began, planned.background);
  std::vector<Ended> ended;
  for (size_t i = 0; i < results->size(); ++i) {
    planned.requests[i]->device.alone &= results->size() == 1;
    std::optional<Ended> end =
        ConcludeItem(std::move((*results)[i]), planned.input.items[i],
                     *planned.requests[i], times[i], now);
    if (end.has_value()) ended.push_back(*std::move(end));
  }
  for (Ended& end : ended) Finish(end.id, std::move(end.status), end.reason, now);
}

// Who is in work ends with it before the next step.
void BatchingEngine::LoseDevice(absl::Status status) {
  std::lock_guard lock(mutex_);
  device_ = std::move(status);
}

std::optional<BatchingEngine::Ended> BatchingEngine::ConcludeItem(StepResult result,
                                                                  const StepItem& item,
                                                                  BatchRequest& request,
                                                                  const ItemTime& time,
                                                                  absl::Time now) {
  const StepReporter::Before before = reporter_.BeforeItem(request, item);
  AttentionStats attention = result.attention;
  AddHeadColumns(result.head_columns, request.head_columns);
  absl::Status status = result.status;
  if (status.ok()) status = batch_.Drop(request, result.dropped_blocks);
  OutboxSink sink(outbox_, *request.sink);
  absl::StatusOr<std::optional<FinishReason>> done = std::optional<FinishReason>();
  if (status.ok()) {
    done = std::visit([&](auto& s) { return s.Commit(std::move(result), sink); },
                      request.sequence);
    status = done.status();
  }
  if (!status.ok()) return Ended{request.id, std::move(status)};
  if (PromptComputed(request.sequence) && !request.prefilled) {
    request.prefilled = now;
    if (!request.background) admission_.LearnFirstToken(request, now);
  }
  reporter_.AfterItem(request, before, attention, time, now);
  batch_.Computed(request);
  if (!done->has_value()) return std::nullopt;
  return Ended{request.id, absl::OkStatus(), **done};
}

void BatchingEngine::Learn(BatchRequest& request, const absl::Status& status,
                           absl::Time now) {
  if (status.ok()) {
    admission_.LearnEnd(request, UsageOf(request.sequence).generated_tokens, now);
  } else if (absl::IsDeadlineExceeded(status)) {
    admission_.LearnLate(request, now);
  }
}

void BatchingEngine::Finish(RequestId id, absl::Status status, FinishReason reason,
                            absl::Time now) {
  const std::unique_ptr<BatchRequest> request = batch_.Remove(
      id, status.ok() || absl::IsCancelled(status) || absl::IsDeadlineExceeded(status));
  admission_.Forget(id);
  if (request->background) {
    std::lock_guard lock(mutex_);
    background_ = false;  // before its sink hears of it, which may bring the next one
  } else {
    Learn(*request, status, now);
  }
  const AttentionReceipt& receipt = AttentionOf(request->sequence).receipt();
  reporter_.OnFinished(*request, status.code(), receipt);
  outbox_.AddLast(std::move(request->sink),
                  {.status = std::move(status),
                   .reason = reason,
                   .usage = UsageOf(request->sequence),
                   .timings = TimingsOf(*request, now),
                   .attention = receipt,
                   .device = request->device,
                   .head_columns = std::move(request->head_columns)},
                  [this] {
                    std::lock_guard lock(mutex_);
                    if (--unfinished_ == 0) idle_.notify_all();
                  });
}

// What stats and Submit see from now on; sinks hear of it after that.
void BatchingEngine::PublishAndDeliver() {
  reporter_.End();
  Publish();
  outbox_.Flush();
}

void BatchingEngine::Publish() {
  std::lock_guard lock(mutex_);
  admission_.Publish(batch_, reporter_.totals(), incoming_);
}

}  // namespace

absl::StatusOr<std::unique_ptr<Engine>> Engine::Start(const EngineOptions& options,
                                                      std::unique_ptr<ModelRunner> runner,
                                                      EngineObserver* observer,
                                                      const Clock& clock) {
  QUIRE_CHECK(runner != nullptr);
  QUIRE_RETURN_IF_ERROR(options.Validate());
  return std::make_unique<BatchingEngine>(options, std::move(runner), observer, clock);
}

}  // namespace quire

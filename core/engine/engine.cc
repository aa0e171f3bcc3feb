#include "core/engine/engine.h"

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <exception>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/base/check.h"
#include "core/base/status_macros.h"
#include "core/engine/request_limits.h"
#include "core/engine/sequence.h"

namespace quire {
namespace {

// An accepted request until it is finished. `cancelled` is guarded by the engine's mutex;
// the rest belongs to whoever owns the request: Submit, then the engine thread.
struct Accepted {
  RequestId id{};
  Sequence sequence;
  std::unique_ptr<RequestSink> sink;
  absl::Time deadline;
  int64_t prompt_tokens = 0;
  int64_t cache_tokens = 0;
  absl::Time accepted;
  BlockLease lease;
  std::optional<absl::Time> started;    // its first step began
  std::optional<absl::Time> prefilled;  // its prompt was computed
  bool cancelled = false;
};

Timings TimingsOf(const Accepted& request, absl::Time now) {
  const absl::Time started = request.started.value_or(now);
  const absl::Time prefilled = request.prefilled.value_or(now);
  const auto span = [](absl::Time from, absl::Time to) {
    return std::max(to - from, absl::ZeroDuration());  // clocks are set back now and then
  };
  return {.queue = span(request.accepted, started),
          .prefill = span(started, prefilled),
          .decode = span(prefilled, now)};
}

const Usage& UsageOf(const Accepted& request) {
  return std::visit([](const auto& s) -> const Usage& { return s.usage(); },
                    request.sequence);
}

AttentionControl& AttentionOf(Accepted& request) {
  return std::visit([](auto& s) -> AttentionControl& { return s.attention(); },
                    request.sequence);
}

class SingleThreadEngine final : public Engine {
 public:
  SingleThreadEngine(const EngineOptions& options, std::unique_ptr<ModelRunner> runner,
                     EngineObserver* observer, const Clock& clock)
      : options_(options),
        runner_(std::move(runner)),
        observer_(observer),
        clock_(clock),
        pool_(options.kv),
        free_blocks_(options.kv.num_blocks),
        thread_([this] { Run(); }) {}

  ~SingleThreadEngine() override {
    {
      std::lock_guard lock(mutex_);
      stopping_ = true;
      work_.notify_one();
    }
    thread_.join();
  }

  absl::StatusOr<RequestId> Submit(EngineRequest request,
                                   std::unique_ptr<RequestSink> sink) override;
  void Cancel(RequestId id) override;
  void Drain(absl::Time deadline) override;
  EngineStats stats() const override;

 private:
  struct Ended {
    std::unique_ptr<Accepted> request;
    absl::Status status;
  };
  using Results = absl::StatusOr<std::vector<StepResult>>;

  // All below run on the engine thread.
  void Run();
  bool WaitForWork();
  void FinishEnded();
  void StartNext();
  void Step();
  Results CallRunner(const StepInput& input);
  void Conclude(Results results, absl::Time began, AttentionMode mode);
  absl::Status Drop(Accepted& request, const std::vector<int32_t>& indices);
  void Finish(std::unique_ptr<Accepted> request, absl::Status status, FinishReason reason,
              absl::Time now);
  std::unique_ptr<Accepted> TakeRunning();

  // Why the request must end now, or OK. REQUIRES: mutex_ is held.
  absl::Status EndOf(const Accepted& request, absl::Time now) const;

  const EngineOptions options_;
  const std::unique_ptr<ModelRunner> runner_;
  EngineObserver* const observer_;
  const Clock& clock_;

  // Engine thread only.
  BlockPool pool_;
  std::vector<RequestId> released_;  // finished since the last step that succeeded

  mutable std::mutex mutex_;  // guards all below
  std::condition_variable work_;
  std::condition_variable idle_;
  std::deque<std::unique_ptr<Accepted>> waiting_;
  std::unique_ptr<Accepted>
      running_;  // set by the engine thread, which reads it unlocked
  uint64_t last_id_ = 0;
  int64_t unfinished_ = 0;  // accepted, and OnFinished has not returned
  int32_t free_blocks_;
  bool stopping_ = false;
  bool draining_ = false;
  absl::Time drain_deadline_ = absl::InfiniteFuture();

  std::thread thread_;  // last: it uses all of the above
};

absl::StatusOr<RequestId> SingleThreadEngine::Submit(EngineRequest request,
                                                     std::unique_ptr<RequestSink> sink) {
  QUIRE_CHECK(sink != nullptr);
  const absl::Time now = clock_.Now();
  QUIRE_RETURN_IF_ERROR(CheckRequest(request, options_, now));
  const int64_t prompt_tokens = PromptTokens(request);
  const int64_t cache_tokens = CacheTokens(request);
  auto accepted = std::make_unique<Accepted>(
      Accepted{.sequence = MakeSequence(std::move(request.work)),
               .sink = std::move(sink),
               .deadline = request.deadline,
               .prompt_tokens = prompt_tokens,
               .cache_tokens = cache_tokens,
               .accepted = now});
  std::lock_guard lock(mutex_);
  if (draining_) return absl::UnavailableError("the engine is draining");
  // An idle engine takes one more: the thread has only not come to start it yet.
  const size_t room = static_cast<size_t>(options_.max_waiting) + (running_ ? 0 : 1);
  if (waiting_.size() >= room) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "max_waiting is ", options_.max_waiting, "; as many requests are waiting"));
  }
  const RequestId id{++last_id_};
  accepted->id = id;
  waiting_.push_back(std::move(accepted));
  ++unfinished_;
  work_.notify_one();
  return id;
}

void SingleThreadEngine::Cancel(RequestId id) {
  std::lock_guard lock(mutex_);
  if (running_ && running_->id == id) running_->cancelled = true;
  for (const auto& request : waiting_) {
    if (request->id == id) request->cancelled = true;
  }
}

void SingleThreadEngine::Drain(absl::Time deadline) {
  std::unique_lock lock(mutex_);
  draining_ = true;
  drain_deadline_ = std::min(drain_deadline_, deadline);
  idle_.wait(lock, [this] { return unfinished_ == 0; });
}

EngineStats SingleThreadEngine::stats() const {
  std::lock_guard lock(mutex_);
  EngineStats stats{.running = running_ ? 1 : 0,
                    .waiting = static_cast<int32_t>(waiting_.size()),
                    .free_blocks = free_blocks_,
                    .num_blocks = options_.kv.num_blocks};
  for (const auto& request : waiting_) stats.waiting_tokens += request->prompt_tokens;
  return stats;
}

void SingleThreadEngine::Run() {
  while (WaitForWork()) {
    FinishEnded();
    StartNext();
    Step();
  }
}

bool SingleThreadEngine::WaitForWork() {
  std::unique_lock lock(mutex_);
  const auto has_requests = [this] { return running_ || !waiting_.empty(); };
  work_.wait(lock, [&] { return stopping_ || has_requests(); });
  return has_requests();
}

absl::Status SingleThreadEngine::EndOf(const Accepted& request, absl::Time now) const {
  if (request.cancelled) return absl::CancelledError("the request was cancelled");
  if (stopping_) return absl::CancelledError("the engine stops");
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
void SingleThreadEngine::FinishEnded() {
  const absl::Time now = clock_.Now();
  std::vector<Ended> ended;
  {
    std::lock_guard lock(mutex_);
    const auto take_if_ended = [&](std::unique_ptr<Accepted>& request) {
      absl::Status status = request ? EndOf(*request, now) : absl::OkStatus();
      if (!status.ok()) ended.push_back({std::move(request), std::move(status)});
    };
    take_if_ended(running_);
    for (auto& request : waiting_) take_if_ended(request);
    waiting_.erase(std::remove(waiting_.begin(), waiting_.end(), nullptr),
                   waiting_.end());
  }
  for (Ended& end : ended) {
    Finish(std::move(end.request), std::move(end.status), {}, now);
  }
}

// Reserves all the blocks that the request may need, so that a started request never has
// to give way.
void SingleThreadEngine::StartNext() {
  std::lock_guard lock(mutex_);
  if (running_ || waiting_.empty()) return;
  BlockLease lease = pool_.Lease();
  const absl::Status reserved =
      lease.GrowTo(options_.kv.BlocksFor(waiting_.front()->cache_tokens));
  QUIRE_CHECK(
      reserved.ok());  // nothing else runs, and Submit compared with the whole cache
  running_ = std::move(waiting_.front());
  waiting_.pop_front();
  running_->lease = std::move(lease);
  free_blocks_ = pool_.free_blocks();
}

void SingleThreadEngine::Step() {
  if (!running_) return;
  StepInput input;
  input.items.push_back(
      std::visit([&](auto& sequence) { return sequence.Plan(options_.chunk_tokens); },
                 running_->sequence));
  input.items.front().id = running_->id;
  input.items.front().blocks = running_->lease.blocks();
  input.released = released_;
  const absl::Time began = clock_.Now();
  if (!running_->started) running_->started = began;
  Results results = CallRunner(input);
  if (results.ok()) released_.clear();
  Conclude(std::move(results), began, input.items.front().attention.mode);
}

// A runner that breaks its promise fails the step's requests, not the process.
SingleThreadEngine::Results SingleThreadEngine::CallRunner(const StepInput& input) {
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

void SingleThreadEngine::Conclude(Results results, absl::Time began, AttentionMode mode) {
  const absl::Time now = clock_.Now();
  if (!results.ok()) return Finish(TakeRunning(), std::move(results).status(), {}, now);
  Accepted& request = *running_;
  StepResult& result = results->front();
  const Usage before = UsageOf(request);
  StepReport report{.elapsed = now - began, .mode = mode, .attention = result.attention};
  if (absl::Status status = Drop(request, result.dropped_blocks); !status.ok()) {
    return Finish(TakeRunning(), std::move(status), {}, now);
  }
  const absl::StatusOr<std::optional<FinishReason>> done = std::visit(
      [&](auto& sequence) { return sequence.Commit(std::move(result), *request.sink); },
      request.sequence);
  if (!done.ok()) return Finish(TakeRunning(), done.status(), {}, now);
  const bool prompt_computed = std::visit(
      [](const auto& sequence) { return sequence.prompt_computed(); }, request.sequence);
  if (prompt_computed && !request.prefilled) request.prefilled = now;
  if (observer_ != nullptr) {
    const Usage& after = UsageOf(request);
    report.prompt_tokens =
        static_cast<int32_t>(after.prompt_tokens - before.prompt_tokens);
    report.generated_tokens =
        static_cast<int32_t>(after.generated_tokens - before.generated_tokens);
    observer_->OnStep(report);
  }
  if (done->has_value()) Finish(TakeRunning(), absl::OkStatus(), **done, now);
}

// Blocks whose keys and values the runner reads no more are others' to use.
absl::Status SingleThreadEngine::Drop(Accepted& request,
                                      const std::vector<int32_t>& indices) {
  if (indices.empty()) return absl::OkStatus();
  for (const int32_t index : indices) {
    const auto blocks = request.lease.blocks();
    const bool held = index >= 0 && index < static_cast<int64_t>(blocks.size()) &&
                      blocks[index] != kNoBlock;
    if (!held) {
      return absl::InternalError(absl::StrCat("the model runner dropped block ", index,
                                              ", which the request does not hold"));
    }
    request.lease.Drop(index);
  }
  AttentionOf(request).AddDropped(static_cast<int64_t>(indices.size()) *
                                  options_.block_bytes);
  std::lock_guard lock(mutex_);
  free_blocks_ = pool_.free_blocks();
  return absl::OkStatus();
}

std::unique_ptr<Accepted> SingleThreadEngine::TakeRunning() {
  std::lock_guard lock(mutex_);
  return std::move(running_);
}

// The blocks are back, and stats() says so, before the sink hears of the end.
void SingleThreadEngine::Finish(std::unique_ptr<Accepted> request, absl::Status status,
                                FinishReason reason, absl::Time now) {
  if (request->started) released_.push_back(request->id);
  request->lease = BlockLease();
  {
    std::lock_guard lock(mutex_);
    free_blocks_ = pool_.free_blocks();
  }
  const AttentionReceipt& receipt = AttentionOf(*request).receipt();
  if (observer_ != nullptr && request->started) observer_->OnFinished(receipt);
  request->sink->OnFinished({.status = std::move(status),
                             .reason = reason,
                             .usage = UsageOf(*request),
                             .timings = TimingsOf(*request, now),
                             .attention = receipt});
  request.reset();
  std::lock_guard lock(mutex_);
  if (--unfinished_ == 0) idle_.notify_all();
}

absl::Status AtLeast(absl::string_view field, int64_t value, int64_t least) {
  if (value >= least) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("engine.", field, " is ", value, "; it must be >= ", least));
}

}  // namespace

absl::Status EngineOptions::Validate() const {
  QUIRE_RETURN_IF_ERROR(AtLeast("kv.num_blocks", kv.num_blocks, 1));
  QUIRE_RETURN_IF_ERROR(AtLeast("kv.tokens_per_block", kv.tokens_per_block, 1));
  QUIRE_RETURN_IF_ERROR(AtLeast("model.vocab_size", model.vocab_size, 1));
  QUIRE_RETURN_IF_ERROR(AtLeast("model.max_positions", model.max_positions, 1));
  QUIRE_RETURN_IF_ERROR(AtLeast("chunk_tokens", chunk_tokens, 1));
  QUIRE_RETURN_IF_ERROR(AtLeast("block_bytes", block_bytes, 0));
  return AtLeast("max_waiting", max_waiting, 0);
}

absl::StatusOr<std::unique_ptr<Engine>> Engine::Start(const EngineOptions& options,
                                                      std::unique_ptr<ModelRunner> runner,
                                                      EngineObserver* observer,
                                                      const Clock& clock) {
  QUIRE_CHECK(runner != nullptr);
  QUIRE_RETURN_IF_ERROR(options.Validate());
  return std::make_unique<SingleThreadEngine>(options, std::move(runner), observer,
                                              clock);
}

}  // namespace quire

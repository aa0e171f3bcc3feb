#include "server/shadow/shadowing_engine.h"

#include <algorithm>
#include <mutex>
#include <optional>
#include <random>
#include <utility>
#include <variant>

#include "core/engine/request_limits.h"
#include "server/shadow/shadow_job.h"
#include "server/shadow/shadow_runner.h"

namespace quire::server {
namespace {

// What requests have in common while they run.
struct Shared {
  SavingsModel& model;
  SavingsObserver& observer;
  ShadowRunner& runner;
  const Clock& clock;
};

int32_t& TopLogprobs(EngineRequest& request) {
  return std::visit([](auto& work) -> int32_t& { return work.top_logprobs; },
                    request.work);
}

// Stands between the engine and a request's own sink.
class MeasuringSink final : public RequestSink {
 public:
  // job: none if the request is not to be measured. asked_top: alternatives that the
  // request asked for.
  MeasuringSink(std::unique_ptr<RequestSink> sink, const Shared& shared,
                AttentionMode mode, std::string call_id, std::optional<ShadowJob> job,
                int32_t asked_top)
      : sink_(std::move(sink)),
        shared_(shared),
        mode_(mode),
        call_id_(std::move(call_id)),
        job_(std::move(job)),
        asked_top_(static_cast<size_t>(asked_top)) {}

  void OnProgress(int64_t done_tokens, int64_t total_tokens) override {
    sink_->OnProgress(done_tokens, total_tokens);
  }
  void OnToken(const TokenScore& token) override {
    answered_ = true;
    if (!job_.has_value()) return sink_->OnToken(token);
    sink_->OnToken(Record(token));
  }
  void OnScores(std::vector<TokenScore> scores) override {
    answered_ = true;
    if (job_.has_value()) {
      for (TokenScore& score : scores) score = Record(std::move(score));
    }
    sink_->OnScores(std::move(scores));
  }
  void OnImportance(std::vector<float> importance) override {
    sink_->OnImportance(std::move(importance));
  }
  void OnFinished(const Finished& finished) override {
    Finished corrected = finished;
    shared_.model.Correct(mode_, corrected.device);
    Measure(finished, corrected.device);
    sink_->OnFinished(corrected);
  }

 private:
  // Takes note of it, and takes away what was not asked for.
  TokenScore Record(TokenScore score) {
    job_->seen.push_back(Seen(score));
    if (score.top.size() > asked_top_) score.top.resize(asked_top_);
    return score;
  }

  void Measure(const Finished& finished, const DeviceTime& corrected) {
    // A call that has found its stop string cancels what it asked the engine for.
    const bool answered = answered_ && absl::IsCancelled(finished.status);
    if (!finished.status.ok() && !answered) return;
    const int64_t sparse_rows =
        finished.attention.prefill.sparse_rows + finished.attention.decode.sparse_rows;
    if (job_.has_value() && finished.status.ok() && sparse_rows > 0 &&
        !job_->seen.empty()) {
      job_->device = finished.device;
      job_->cached_tokens = finished.usage.cached_tokens;
      job_->finished = shared_.clock.Now();
      return shared_.runner.Add(*std::move(job_));
    }
    const absl::Duration saved = corrected.dense_total() - corrected.total();
    shared_.observer.OnSavings({.call_id = call_id_,
                                .basis = SavingsBasis::kModelled,
                                .own = corrected.total(),
                                .dense = corrected.dense_total(),
                                .saved_usd = shared_.model.UsdOf(saved)});
  }

  const std::unique_ptr<RequestSink> sink_;
  const Shared shared_;
  const AttentionMode mode_;
  const std::string call_id_;
  std::optional<ShadowJob> job_;
  const size_t asked_top_;
  bool answered_ = false;
};

class ShadowingEngine final : public Engine {
 public:
  ShadowingEngine(std::unique_ptr<Engine> engine, const KvGeometry& kv,
                  const ShadowOptions& options, SavingsObserver& observer,
                  const Clock& clock)
      : options_(options),
        most_tokens_(kv.capacity_tokens() / 2),
        observer_(observer),
        clock_(clock),
        model_(options.price_per_device_hour),
        engine_(std::move(engine)),
        runner_(std::make_unique<ShadowRunner>(*engine_, options.budget, model_, observer,
                                               clock)),
        random_(options.seed) {}

  // Sinks use the runner, and the runner the engine.
  ~ShadowingEngine() override {
    engine_->Drain(absl::InfinitePast());
    runner_.reset();
  }

  absl::StatusOr<RequestId> Submit(EngineRequest request,
                                   std::unique_ptr<RequestSink> sink) override {
    const int32_t asked_top = TopLogprobs(request);
    const RequestShape shape = ShapeOf(request);
    std::optional<ShadowJob> job;
    if (Chooses(shape)) {
      TopLogprobs(request) = std::max(asked_top, 1);
      job = ShadowJob{.request = request};
    }
    auto measuring = std::make_unique<MeasuringSink>(
        std::move(sink), Shared{model_, observer_, *runner_, clock_},
        shape.attention.mode, request.scheduling.call_id, std::move(job), asked_top);
    return engine_->Submit(std::move(request), std::move(measuring));
  }
  absl::Status CheckAdmission(const RequestShape& shape) const override {
    return engine_->CheckAdmission(shape);
  }
  RequestEstimate Estimate(const RequestShape& shape) const override {
    return engine_->Estimate(shape);
  }
  void Cancel(RequestId id) override { engine_->Cancel(id); }
  void Drain(absl::Time deadline) override { engine_->Drain(deadline); }
  EngineStats stats() const override { return engine_->stats(); }

 private:
  // Whether a request is to be measured. Texts that may not be read sparsely are not.
  bool Chooses(const RequestShape& shape) {
    const AttentionOptions& attention = shape.attention;
    if (attention.mode == AttentionMode::kDense) return false;
    const int64_t tokens = shape.prompt_tokens + std::max<int64_t>(shape.new_tokens, 1);
    const bool refined = attention.mode != AttentionMode::kFaithful;
    if (refined && (attention.eps == 0 || tokens < attention.SparseFrom())) return false;
    {
      std::lock_guard lock(mutex_);
      if (std::uniform_real_distribution<>(0, 1)(random_) >= options_.share) return false;
    }
    if (tokens <= most_tokens_) return true;
    observer_.OnShadowSkipped(ShadowSkip::kTooLarge);
    return false;
  }

  const ShadowOptions options_;
  const int64_t most_tokens_;
  SavingsObserver& observer_;
  const Clock& clock_;
  SavingsModel model_;
  std::unique_ptr<Engine> engine_;
  std::unique_ptr<ShadowRunner> runner_;
  std::mutex mutex_;  // guards the next
  std::mt19937_64 random_;
};

}  // namespace

std::unique_ptr<Engine> MakeShadowingEngine(std::unique_ptr<Engine> engine,
                                            const KvGeometry& kv,
                                            const ShadowOptions& options,
                                            SavingsObserver& observer,
                                            const Clock& clock) {
  return std::make_unique<ShadowingEngine>(std::move(engine), kv, options, observer,
                                           clock);
}

}  // namespace quire::server

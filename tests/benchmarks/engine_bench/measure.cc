#include "tests/benchmarks/engine_bench/measure.h"

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <utility>

namespace quire {

double Seconds() {
  return std::chrono::duration<double>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

absl::StatusOr<std::vector<StepResult>> TimedRunner::Step(const StepInput& input) {
  TimedStep step{.began = Seconds(), .items = input.items.size()};
  StepInput timed = input;
  timed.meanwhile = nullptr;
  if (meanwhile_ && input.meanwhile) {
    timed.meanwhile = [&] {
      const double began = Seconds();
      input.meanwhile();
      step.meanwhile = Seconds() - began;
    };
  }
  auto results = runner_->Step(timed);
  step.ended = Seconds();
  for (const StepItem& item : input.items) {
    if (item.tokens.size() > 1) step.prompt_rows += item.tokens.size();
  }
  steps_.push_back(step);
  return results;
}

absl::StatusOr<std::vector<StepResult>> WaitingRunner::Step(const StepInput& input) {
  const double end = Seconds() + seconds_;
  if (wait_ == Wait::kPoll && input.meanwhile) input.meanwhile();
  std::vector<StepResult> results;
  for (const StepItem& item : input.items) {
    StepResult& result = results.emplace_back();
    result.id = item.id;
    if (item.sample) result.sampled = TokenScore{.token = 1};
  }
  if (wait_ == Wait::kSleep) {
    std::this_thread::sleep_for(std::chrono::duration<double>(end - Seconds()));
  }
  while (Seconds() < end) continue;
  return results;
}

std::vector<double> Times::gaps(double from, double to) const {
  std::vector<double> gaps;
  for (size_t i = 1; i < tokens.size(); ++i) {
    if (tokens[i - 1] >= from && tokens[i] < to)
      gaps.push_back(tokens[i] - tokens[i - 1]);
  }
  return gaps;
}

struct Request::Shared {
  std::mutex mutex;
  std::condition_variable changed;
  Times times;
  bool done = false;

  class Sink final : public RequestSink {
   public:
    explicit Sink(std::shared_ptr<Shared> shared) : shared_(std::move(shared)) {}
    void OnProgress(int64_t, int64_t) override {}
    void OnToken(const TokenScore&) override {
      std::lock_guard lock(shared_->mutex);
      shared_->times.tokens.push_back(Seconds());
      shared_->changed.notify_all();
    }
    void OnScores(std::vector<TokenScore>) override {}
    void OnImportance(std::vector<float>) override {}
    void OnFinished(const Finished& finished) override {
      std::lock_guard lock(shared_->mutex);
      shared_->times.finished = Seconds();
      shared_->times.usage = finished.usage;
      shared_->times.status = finished.status;
      shared_->done = true;
      shared_->changed.notify_all();
    }

   private:
    const std::shared_ptr<Shared> shared_;
  };
};

Request::Request(Engine& engine, EngineRequest request)
    : engine_(engine), shared_(std::make_shared<Shared>()) {
  shared_->times.submitted = Seconds();
  const auto id =
      engine.Submit(std::move(request), std::make_unique<Shared::Sink>(shared_));
  if (!id.ok()) {
    std::fprintf(stderr, "%s\n", id.status().ToString().c_str());
    std::exit(1);
  }
  id_ = *id;
}

Request::~Request() {
  engine_.Cancel(id_);
  Wait();
}

const Times& Request::Wait() {
  std::unique_lock lock(shared_->mutex);
  shared_->changed.wait(lock, [this] { return shared_->done; });
  return shared_->times;
}

void Request::WaitForTokens(size_t count) {
  std::unique_lock lock(shared_->mutex);
  shared_->changed.wait(
      lock, [&] { return shared_->done || shared_->times.tokens.size() >= count; });
}

void Request::Cancel() { engine_.Cancel(id_); }

}  // namespace quire

#pragma once

#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "core/engine/engine.h"
#include "core/engine/request.h"
#include "core/step/step.h"
#include "tests/support/quantile.h"

// What engine_bench measures with: clocks around the runner, and sinks that note times.
namespace quire {

double Seconds();

struct TimedStep {
  double began = 0;
  double ended = 0;
  double meanwhile = 0;  // seconds in StepInput::meanwhile, of those between
  size_t items = 0;
  size_t prompt_rows = 0;  // of items with several rows
};

// Hands every step on and notes how long it took. steps() may be read while no request is
// in work.
class TimedRunner final : public ModelRunner {
 public:
  TimedRunner(std::unique_ptr<ModelRunner> runner, std::vector<TimedStep>& steps)
      : runner_(std::move(runner)), steps_(steps) {}
  void Prepare() override { runner_->Prepare(); }
  absl::StatusOr<std::vector<StepResult>> Step(const StepInput& input) override;
  // False: StepInput::meanwhile is kept from the runner, as if it computed itself. Call
  // it while no request is in work.
  void set_meanwhile(bool meanwhile) { meanwhile_ = meanwhile; }

 private:
  const std::unique_ptr<ModelRunner> runner_;
  std::vector<TimedStep>& steps_;
  bool meanwhile_ = true;
};

// A step takes `seconds`, whatever is in it; the next token is 1.
class WaitingRunner final : public ModelRunner {
 public:
  // kSleep: as one that computes itself. kPoll: as one that asks a device whether it is
  // ready.
  enum class Wait { kSleep, kPoll };
  WaitingRunner(double seconds, Wait wait) : seconds_(seconds), wait_(wait) {}
  absl::StatusOr<std::vector<StepResult>> Step(const StepInput& input) override;

 private:
  const double seconds_;
  const Wait wait_;
};

// When one request's tokens came.
struct Times {
  double submitted = 0;
  std::vector<double> tokens;
  double finished = 0;
  Usage usage;
  absl::Status status;

  double first_token() const { return tokens.front() - submitted; }
  // Gaps between tokens that came in [from, to).
  std::vector<double> gaps(double from, double to) const;
};

// One request in work. Wait before reading the times.
class Request {
 public:
  Request(Engine& engine, EngineRequest request);
  ~Request();
  const Times& Wait();
  void WaitForTokens(size_t count);
  void Cancel();

 private:
  struct Shared;
  Engine& engine_;
  std::shared_ptr<Shared> shared_;
  RequestId id_{};
};

}  // namespace quire

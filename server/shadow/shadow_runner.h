#pragma once

#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "core/base/clock.h"
#include "core/engine/engine.h"
#include "server/shadow/budget.h"
#include "server/shadow/savings.h"
#include "server/shadow/shadow_job.h"

namespace quire::server {

// Computes requests again, one at a time, while the engine has nothing else to do and
// there is budget. On a thread of its own; Add is thread-safe.
class ShadowRunner {
 public:
  // All must outlive this. budget: device time a minute.
  ShadowRunner(Engine& engine, absl::Duration budget, SavingsModel& model,
               SavingsObserver& observer, const Clock& clock);
  // Gives up what is under way.
  ~ShadowRunner();

  // Never blocks. If too many wait, the oldest is given up as the reason that held it.
  void Add(ShadowJob job);

  static constexpr size_t kMaxWaiting = 4;
  static constexpr absl::Duration kPatience = absl::Minutes(2);

 private:
  struct Outcome {
    absl::Status status;
    DeviceTime device;
    std::vector<SeenToken> seen;
  };
  class Sink;

  void Run();
  // What keeps the first in line from starting; nullopt: nothing.
  std::optional<ShadowSkip> Hindrance();
  void Measure(const ShadowJob& job);
  Outcome RunAgain(const ShadowJob& job, bool dense);
  // The job is not measured: its savings are the model's.
  void Skip(const ShadowJob& job, ShadowSkip reason);
  void Report(const ShadowJob& job, SavingsBasis basis, absl::Duration own,
              absl::Duration dense);

  Engine& engine_;
  SavingsModel& model_;
  SavingsObserver& observer_;
  const Clock& clock_;
  DeviceBudget budget_;  // the thread's

  std::mutex mutex_;  // guards all below
  std::condition_variable changed_;
  std::deque<ShadowJob> waiting_;
  bool stopping_ = false;
  std::thread thread_;  // last: it uses all of the above
};

}  // namespace quire::server

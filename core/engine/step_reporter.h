#pragma once

#include <vector>

#include "absl/time/time.h"
#include "core/engine/batch.h"
#include "core/engine/engine.h"
#include "core/engine/throughput.h"

namespace quire {

// Adds up what a step did and tells the observer, if there is one. The engine thread's,
// but for OnWouldRefuse.
class StepReporter {
 public:
  explicit StepReporter(EngineObserver* observer) : observer_(observer) {}

  struct Totals {
    int64_t steps = 0;
    int64_t prompt_tokens = 0;
    int64_t cached_tokens = 0;
    int64_t generated_tokens = 0;
    Throughput prompt_rate;
    Throughput generated_rate;
  };
  const Totals& totals() const { return totals_; }

  void OnPlan(const ScheduleOptions& options, const Batch::Planned& planned);

  // A step: Begin, then Before and After of each item that went well, then End. What is
  // told before End, and the next step, end it too; End may be called again.
  struct Before {
    Usage usage;
    int64_t recomputed = 0;
    bool prompt = false;
    AttentionMode mode = AttentionMode::kDense;
    int64_t rows = 0;
    int64_t head_rows = 0;
  };
  void Begin(absl::Time now, absl::Duration elapsed, bool background);
  static Before BeforeItem(const BatchRequest& request, const StepItem& item);
  void AfterItem(BatchRequest& request, const Before& before,
                 const AttentionStats& attention, const ItemTime& time, absl::Time now);
  void End();

  // Background requests are in no total; the observer is told that they are.
  void OnFinished(const BatchRequest& request, absl::StatusCode code,
                  const AttentionReceipt& receipt);
  void OnWouldRefuse() const;

 private:
  EngineObserver* const observer_;
  Totals totals_;
  bool open_ = false;  // a step began and has not ended
  absl::Time now_;
  StepReport report_;
  std::vector<absl::Duration> inter_token_;
};

}  // namespace quire

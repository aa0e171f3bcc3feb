#pragma once

#include <cstdint>
#include <optional>

#include "absl/time/time.h"
#include "core/base/clock.h"
#include "core/summarize/summarizer.h"

namespace quire {

// What the passes after the one at hand will still have to do, as far as is known.
struct WorkAhead {
  int32_t passes = 0;
  int64_t prefill_tokens = 0;
  int64_t decode_tokens = 0;  // at most
};

// Turns what one pass reports into SummaryProgress: counts passes, measures tokens per
// second on the given clock and estimates when the phase ends, all passes together. The
// measured rate is that between two reports, so waiting for the engine does not count;
// before the second report of a phase there is no estimate. Not thread-safe.
class PassProgress {
 public:
  explicit PassProgress(const Clock& clock) : clock_(clock) {}

  // The next pass is submitted.
  SummaryProgress BeginPass(int64_t prompt_tokens, int64_t max_new_tokens,
                            const WorkAhead& ahead);
  // done of the pass's prompt tokens are computed.
  SummaryProgress OnPrefill(int64_t done_tokens);
  // One more token was generated.
  SummaryProgress OnToken();

 private:
  struct Meter {
    int64_t tokens = 0;
    absl::Duration time;
    std::optional<absl::Time> last;  // of the report before, of this pass

    void Add(int64_t new_tokens, absl::Time now);
    std::optional<absl::Duration> Eta(int64_t tokens_left) const;
  };

  SummaryProgress Report(SummaryPhase phase, int64_t done, int64_t total) const;

  const Clock& clock_;
  Meter prefill_, decode_;
  int32_t pass_ = 0;
  int64_t prompt_tokens_ = 0;
  int64_t prompt_done_ = 0;
  int64_t max_new_tokens_ = 0;
  int64_t generated_ = 0;
  WorkAhead ahead_;
};

}  // namespace quire

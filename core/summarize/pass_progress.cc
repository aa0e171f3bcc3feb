#include "core/summarize/pass_progress.h"

namespace quire {

void PassProgress::Meter::Add(int64_t new_tokens, absl::Time now) {
  if (last.has_value()) {
    tokens += new_tokens;
    time += now - *last;
  }
  last = now;
}

std::optional<absl::Duration> PassProgress::Meter::Eta(int64_t tokens_left) const {
  if (tokens == 0) return std::nullopt;
  return time * (static_cast<double>(tokens_left) / static_cast<double>(tokens));
}

SummaryProgress PassProgress::BeginPass(int64_t prompt_tokens, int64_t max_new_tokens,
                                        const WorkAhead& ahead) {
  ++pass_;
  prompt_tokens_ = prompt_tokens;
  max_new_tokens_ = max_new_tokens;
  prompt_done_ = 0;
  generated_ = 0;
  ahead_ = ahead;
  prefill_.last.reset();
  decode_.last.reset();
  return Report(SummaryPhase::kQueued, 0, prompt_tokens_);
}

SummaryProgress PassProgress::OnPrefill(int64_t done_tokens) {
  prefill_.Add(done_tokens - prompt_done_, clock_.Now());
  prompt_done_ = done_tokens;
  SummaryProgress progress = Report(SummaryPhase::kPrefill, done_tokens, prompt_tokens_);
  progress.eta = prefill_.Eta(prompt_tokens_ - done_tokens + ahead_.prefill_tokens);
  return progress;
}

SummaryProgress PassProgress::OnToken() {
  ++generated_;
  decode_.Add(1, clock_.Now());
  SummaryProgress progress = Report(SummaryPhase::kDecode, generated_, max_new_tokens_);
  progress.eta = decode_.Eta(max_new_tokens_ - generated_ + ahead_.decode_tokens);
  return progress;
}

SummaryProgress PassProgress::Report(SummaryPhase phase, int64_t done,
                                     int64_t total) const {
  return {.phase = phase,
          .done_tokens = done,
          .total_tokens = total,
          .pass = pass_,
          .passes = pass_ + ahead_.passes,
          .eta = std::nullopt};
}

}  // namespace quire

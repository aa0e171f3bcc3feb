#include "server/observability/activity.h"

namespace quire::server {

void Activity::OnFirstToken(absl::Duration since_arrival) {
  const std::lock_guard lock(mutex_);
  first_token_.Add(since_arrival, clock_.Now());
}

ActivitySnapshot Activity::snapshot() const {
  const std::lock_guard lock(mutex_);
  const absl::Time now = clock_.Now();
  return {.attention_macs = attention_macs_,
          .dense_attention_macs = dense_attention_macs_,
          .first_token = first_token_.Percentiles(now),
          .inter_token = inter_token_.Percentiles(now),
          .shadows = shadows_};
}

void Activity::OnStep(const StepReport& step) {
  if (!step.background) {
    const std::lock_guard lock(mutex_);
    for (const auto* phase : {&step.prefill, &step.decode}) {
      for (const AttentionStats& stats : *phase) {
        attention_macs_ += static_cast<double>(stats.work.executed_macs());
        dense_attention_macs_ += static_cast<double>(stats.work.dense_macs);
      }
    }
    const absl::Time now = clock_.Now();
    for (const absl::Duration pause : step.inter_token) inter_token_.Add(pause, now);
  }
  next_.OnStep(step);
}

void Activity::OnShadow(const ShadowResult& result) {
  {
    const std::lock_guard lock(mutex_);
    ++shadows_.count;
    shadows_.own += result.own;
    shadows_.dense += result.dense;
    shadows_.compared_tokens += result.compared_tokens;
    shadows_.logprob_abs_delta +=
        result.logprob_abs_delta * static_cast<double>(result.compared_tokens);
    shadows_.top1_mismatches += result.top1_mismatches;
  }
  if (savings_ != nullptr) savings_->OnShadow(result);
}

}  // namespace quire::server

#include "core/dga/attention_control.h"

namespace quire {

AttentionControl::AttentionControl(const AttentionOptions& options) : options_(options) {
  receipt_.mode = options.mode;
  receipt_.eps = options.eps;
}

void AttentionControl::Add(const AttentionStats& stats, bool prompt) {
  (prompt ? receipt_.prefill : receipt_.decode) += stats;
  React(stats);
}

// A single step is enough: its audits are of the text as it is now.
void AttentionControl::React(const AttentionStats& stats) {
  if (options_.max_error >= 1 || stats.audits == 0 || receipt_.fell_back) return;
  const double error = stats.audit_error / static_cast<double>(stats.audits);
  if (error <= options_.max_error) return;
  const bool has_knob = options_.mode != AttentionMode::kFaithful;
  if (has_knob && receipt_.eps_lowered < kMaxEpsLowered) {
    options_.eps /= 2;
    receipt_.eps = options_.eps;
    ++receipt_.eps_lowered;
    return;
  }
  options_.mode = AttentionMode::kDense;
  receipt_.fell_back = true;
}

}  // namespace quire

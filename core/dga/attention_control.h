#pragma once

#include <cstdint>

#include "core/dga/attention_options.h"
#include "core/dga/attention_stats.h"

namespace quire {

// One request's attention from step to step: watches the audited error, lowers eps when
// it passes max_error, goes dense when that has not helped, and adds up the receipt. Not
// thread-safe.
class AttentionControl {
 public:
  explicit AttentionControl(const AttentionOptions& options);

  // For the next step.
  const AttentionOptions& options() const { return options_; }

  // Takes what a step of the prompt, or of the answer, did.
  void Add(const AttentionStats& stats, bool prompt);
  void AddDropped(int64_t kv_bytes) { receipt_.kv_bytes_dropped += kv_bytes; }

  const AttentionReceipt& receipt() const { return receipt_; }

 private:
  void React(const AttentionStats& stats);

  AttentionOptions options_;
  AttentionReceipt receipt_;
};

inline constexpr int32_t kMaxEpsLowered = 3;  // each time to half; then dense

}  // namespace quire

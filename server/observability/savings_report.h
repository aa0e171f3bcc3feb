#pragma once

#include <cstdint>
#include <string>

#include "absl/time/time.h"
#include "core/dga/attention_options.h"

namespace quire::server {

// One request to an engine that was computed a second time with dense attention.
struct ShadowResult {
  std::string call_id;                        // of the call that it was a part of
  AttentionMode mode = AttentionMode::kAuto;  // that it was computed with first
  absl::Duration own;                         // device time, as it was computed
  absl::Duration dense;                       // and densely
  // Tokens of the answer, or scored tokens; the mean of |own - dense| of their log
  // probabilities (natural), and for how many another token was the most probable.
  int64_t compared_tokens = 0;
  double logprob_abs_delta = 0;
  int64_t top1_mismatches = 0;
};

// Why a request that was chosen was not measured after all.
enum class ShadowSkip : uint8_t {
  kBusy,      // the engine had users' requests to compute all the while
  kBudget,    // the device time of a minute was spent all the while
  kAborted,   // users' requests needed its memory
  kFailed,    // the second run failed
  kTooLarge,  // it would take more than half of the key/value cache
};
inline constexpr int kShadowSkips = 5;

// Where what dense attention would have taken is known from.
enum class SavingsBasis : uint8_t {
  kMeasured,  // it was computed too
  kModelled,  // the cost model of the engine's steps, corrected by what was measured
};

// A finished request's device time beside dense attention's.
struct SavingsReport {
  std::string call_id;
  SavingsBasis basis = SavingsBasis::kModelled;
  absl::Duration own;
  absl::Duration dense;
  double saved_usd = 0;  // < 0: lost. 0 without a price.
};

// Told of what was saved. Thread-safe; must not block.
class SavingsObserver {
 public:
  virtual ~SavingsObserver() = default;
  // Once for each request that ended well, or was broken off while it answered; of those
  // that are chosen to be measured, once they are or cannot be.
  virtual void OnSavings(const SavingsReport& report) = 0;
  virtual void OnShadow(const ShadowResult& result) = 0;
  virtual void OnShadowSkipped(ShadowSkip reason) = 0;
};

}  // namespace quire::server

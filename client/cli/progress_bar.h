#pragma once

#include <optional>
#include <string>

#include "absl/time/time.h"
#include "quire/v1/inference.pb.h"

namespace quire::cli {

// The progress line, without what moves the cursor. Never wider than columns - 1, so that
// no terminal wraps it; the narrower it is, the more is left out, the percentage last.
// tokens_per_second: unset while unknown.
std::string RenderProgress(const v1::Progress& progress,
                           std::optional<double> tokens_per_second, int columns,
                           bool unicode);

// Follows the events of a call: measures the rate, and says when to draw. One thread.
class ProgressMeter {
 public:
  // Whether the line should be drawn now: at most ten times a second.
  bool Update(const v1::Progress& progress, absl::Time now);
  // Of the current pass and phase; unset until it has run for a fifth of a second.
  std::optional<double> tokens_per_second() const { return tokens_per_second_; }

 private:
  v1::Phase phase_ = v1::PHASE_UNSPECIFIED;
  int pass_ = 0;
  int64_t first_tokens_ = 0;
  absl::Time first_time_;
  absl::Time last_drawn_ = absl::InfinitePast();
  std::optional<double> tokens_per_second_;
};

}  // namespace quire::cli

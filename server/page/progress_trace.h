#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/types/span.h"

namespace quire::server {

enum class TracePhase : uint8_t { kPrefill, kDecode };

// How far a call had got.
struct TracePoint {
  double seconds = 0;  // since its arrival
  TracePhase phase = TracePhase::kPrefill;
  int32_t pass = 1;
  int64_t done_tokens = 0;   // of this pass and phase
  int64_t total_tokens = 0;  // 0: not known
  friend bool operator==(const TracePoint&, const TracePoint&) = default;
};

// The course of one call in a bounded number of points: when there are too many, every
// second one is forgotten and from then on as many fewer are kept. The last one is always
// there, and so is the last of each phase and pass as long as these are few. Not
// thread-safe.
class ProgressTrace {
 public:
  static constexpr size_t kMaxPoints = 128;

  void Add(const TracePoint& point);
  absl::Span<const TracePoint> points() const { return points_; }

 private:
  void ForgetHalf();

  std::vector<TracePoint> points_;  // but for the last, those that stay
  int64_t stride_ = 1;              // one of so many stays
  int64_t since_kept_ = 0;          // points since the last that stays
};

}  // namespace quire::server

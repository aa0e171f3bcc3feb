#pragma once

#include <array>
#include <cstdint>

#include "absl/time/time.h"

namespace quire::server {

// Percentiles of what was seen over the last minute; count 0: nothing was.
struct LatencyPercentiles {
  int64_t count = 0;
  absl::Duration p50;
  absl::Duration p95;
  absl::Duration p99;
};

// Durations of the last minute, counted in buckets that grow by a tenth each from 100
// microseconds on, so that a percentile is right within a tenth and the memory is fixed.
// Older ones leave five seconds' worth at a time. Not thread-safe.
class RecentLatency {
 public:
  void Add(absl::Duration value, absl::Time now);
  LatencyPercentiles Percentiles(absl::Time now) const;

 private:
  static constexpr int kSlots = 12;     // of the last minute
  static constexpr int kBuckets = 176;  // the last one begins at half an hour
  struct Slot {
    int64_t number = -1;  // since the epoch, in slots; -1: never used
    std::array<uint32_t, kBuckets> counts = {};
  };
  static int BucketOf(absl::Duration value);
  static absl::Duration MiddleOf(int bucket);

  std::array<Slot, kSlots> slots_;
};

}  // namespace quire::server

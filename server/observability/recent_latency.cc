#include "server/observability/recent_latency.h"

#include <algorithm>
#include <cmath>

namespace quire::server {
namespace {

constexpr absl::Duration kSlotLength = absl::Seconds(5);
constexpr double kFirstSeconds = 1e-4;
constexpr double kGrowth = 1.1;

int64_t SlotNumber(absl::Time now) {
  return absl::ToUnixSeconds(now) / absl::ToInt64Seconds(kSlotLength);
}

}  // namespace

int RecentLatency::BucketOf(absl::Duration value) {
  const double ratio = absl::ToDoubleSeconds(value) / kFirstSeconds;
  if (!(ratio > 1)) return 0;
  const double bucket = std::ceil(std::log(ratio) / std::log(kGrowth));
  return static_cast<int>(std::min<double>(bucket, kBuckets - 1));
}

absl::Duration RecentLatency::MiddleOf(int bucket) {
  return absl::Seconds(kFirstSeconds * std::pow(kGrowth, bucket - 0.5));
}

void RecentLatency::Add(absl::Duration value, absl::Time now) {
  const int64_t number = SlotNumber(now);
  Slot& slot = slots_[static_cast<size_t>(number % kSlots)];
  if (slot.number != number) slot = Slot{.number = number};
  ++slot.counts[static_cast<size_t>(BucketOf(value))];
}

LatencyPercentiles RecentLatency::Percentiles(absl::Time now) const {
  const int64_t oldest = SlotNumber(now) - kSlots + 1;
  std::array<int64_t, kBuckets> counts = {};
  LatencyPercentiles result;
  for (const Slot& slot : slots_) {
    if (slot.number < oldest) continue;
    for (size_t i = 0; i < kBuckets; ++i) counts[i] += slot.counts[i];
  }
  for (const int64_t count : counts) result.count += count;
  const auto at = [&](double share) {
    const auto rank =
        static_cast<int64_t>(std::ceil(share * static_cast<double>(result.count)));
    int64_t seen = 0;
    for (int i = 0; i < kBuckets; ++i) {
      seen += counts[static_cast<size_t>(i)];
      if (seen >= rank) return MiddleOf(i);
    }
    return MiddleOf(kBuckets - 1);
  };
  if (result.count == 0) return result;
  result.p50 = at(0.5);
  result.p95 = at(0.95);
  result.p99 = at(0.99);
  return result;
}

}  // namespace quire::server

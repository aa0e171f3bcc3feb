#include "core/engine/throughput.h"

namespace quire {

void Throughput::Add(absl::Time now, int64_t tokens) {
  const int64_t second = absl::ToUnixSeconds(now);
  Bucket& bucket = buckets_[static_cast<size_t>(second % (kSeconds + 1))];
  if (bucket.second != second) bucket = {.second = second};
  bucket.tokens += tokens;
}

// The second that has begun is left out: it would count as a whole one.
double Throughput::PerSecond(absl::Time now) const {
  const int64_t second = absl::ToUnixSeconds(now);
  int64_t tokens = 0;
  for (const Bucket& bucket : buckets_) {
    if (bucket.second < second && bucket.second >= second - kSeconds) {
      tokens += bucket.tokens;
    }
  }
  return static_cast<double>(tokens) / kSeconds;
}

}  // namespace quire

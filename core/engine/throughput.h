#pragma once

#include <array>
#include <cstdint>

#include "absl/time/time.h"

namespace quire {

// Tokens a second over the last kSeconds whole seconds. Not thread-safe.
class Throughput {
 public:
  static constexpr int64_t kSeconds = 10;

  void Add(absl::Time now, int64_t tokens);
  double PerSecond(absl::Time now) const;

 private:
  struct Bucket {
    int64_t second = -1;
    int64_t tokens = 0;
  };
  std::array<Bucket, kSeconds + 1> buckets_;
};

}  // namespace quire

#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "server/page/series.h"

namespace quire::server {

// Samples of the page's series over the last day, finer for the last minutes, as counters
// stand: who wants a rate subtracts. Thread-safe; bounded: kMaxSeries, then further ones
// are left out.
class History {
 public:
  struct Tier {
    int64_t step_seconds;
    size_t samples;
  };
  static constexpr std::array<Tier, 3> kTiers = {{{1, 600}, {10, 720}, {60, 1440}}};
  static constexpr size_t kMaxSeries = 256;

  // One sample; `time` grows. A tier takes it if its step has passed since its last one.
  void Add(absl::Time time, const Sample& sample);

  // The tier's samples after `since` as JSON:
  //   {"step":1,"times":[unix seconds...],"series":{"name":[values...],"other":5}}
  // A series that stood still is one number, a value that is not known null.
  // REQUIRES: step is one of kTiers'.
  std::string Json(int64_t step_seconds, absl::Time since) const;

 private:
  // Samples of one tier, each series in a ring of its own.
  struct Ring {
    size_t next = 0;   // where the next sample goes
    size_t count = 0;  // that there are
    absl::Time last = absl::InfinitePast();
    std::vector<double> times;                // [capacity]
    std::vector<std::vector<double>> values;  // [series][capacity]
  };
  static void Push(double time, const std::vector<double>& row, size_t capacity,
                   Ring& ring);
  // The sample's values by series; NaN for those that it does not have.
  std::vector<double> RowOf(const Sample& sample);

  mutable std::mutex mutex_;  // guards all below
  std::vector<std::string> names_;
  absl::flat_hash_map<std::string, size_t> index_;  // of names_
  std::array<Ring, kTiers.size()> rings_;
};

// The shortest text that reads back as the same number; "null" for what JSON cannot say.
void AppendJsonNumber(double value, std::string& out);

}  // namespace quire::server

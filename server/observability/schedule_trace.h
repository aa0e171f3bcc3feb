#pragma once

#include <cstdint>
#include <fstream>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "core/schedule/scheduler.h"
#include "server/observability/log.h"

namespace quire::server {

// Writes an engine's decisions to a file that the simulator can replay: see
// core/schedule/trace.h. Bounded: stops, and says so in the log, before the file has
// more than max_bytes. Used by one engine thread.
class ScheduleTrace {
 public:
  static constexpr int64_t kMaxBytes = int64_t{256} << 20;

  // Replaces the file. The log must outlive this. kInvalidArgument: cannot be written.
  static absl::StatusOr<std::unique_ptr<ScheduleTrace>> Open(
      const std::string& path, Log& log, int64_t max_bytes = kMaxBytes);

  void Add(const ScheduleOptions& options, const ScheduleState& state,
           const StepPlan& plan);

 private:
  ScheduleTrace(const std::string& path, Log& log, int64_t max_bytes)
      : path_(path), log_(log), max_bytes_(max_bytes), file_(path) {}
  void Write(const std::string& line);

  const std::string path_;
  Log& log_;
  const int64_t max_bytes_;
  std::ofstream file_;
  int64_t bytes_ = 0;
  bool stopped_ = false;
};

}  // namespace quire::server

#include "server/observability/schedule_trace.h"

#include "absl/strings/str_cat.h"
#include "core/schedule/trace.h"
#include "server/rpc/status.h"

namespace quire::server {

absl::StatusOr<std::unique_ptr<ScheduleTrace>> ScheduleTrace::Open(
    const std::string& path, Log& log, int64_t max_bytes) {
  std::unique_ptr<ScheduleTrace> trace(new ScheduleTrace(path, log, max_bytes));
  if (trace->file_.is_open()) return trace;
  return absl::InvalidArgumentError(
      absl::StrCat("schedule_trace is ", Quoted(path), "; it cannot be written"));
}

void ScheduleTrace::Add(const ScheduleOptions& options, const ScheduleState& state,
                        const StepPlan& plan) {
  if (stopped_) return;
  if (bytes_ == 0) Write(FormatTraceOptions(options));
  Write(FormatTraceEntry({state, plan}));
}

// Lines whole or not at all.
void ScheduleTrace::Write(const std::string& line) {
  const auto size = static_cast<int64_t>(line.size()) + 1;
  const bool full = bytes_ + size > max_bytes_;
  if (!full && !stopped_) file_ << line << '\n';
  bytes_ += size;
  if (stopped_ || (!full && file_.good())) return;
  stopped_ = true;
  file_.close();
  log_.Info("schedule_trace ended", {{"file", path_},
                                     {"reason", full ? "max_bytes" : "cannot write"},
                                     {"max_bytes", max_bytes_}});
}

}  // namespace quire::server

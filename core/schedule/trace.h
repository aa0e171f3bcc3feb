#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "core/schedule/scheduler.h"

namespace quire {

// One decision of the scheduler, with all that it was made from.
struct TraceEntry {
  ScheduleState state;
  StepPlan plan;
  friend bool operator==(const TraceEntry&, const TraceEntry&) = default;
};

// A trace is a text file: the first line holds the options, every other one an entry.
// Numbers in decimal, without spaces at the end; the format's version comes first.
std::string FormatTraceOptions(const ScheduleOptions& options);
std::string FormatTraceEntry(const TraceEntry& entry);

// kInvalidArgument says what is wrong with the line. Input is not trusted.
absl::StatusOr<ScheduleOptions> ParseTraceOptions(std::string_view line);
absl::StatusOr<TraceEntry> ParseTraceEntry(std::string_view line);

}  // namespace quire

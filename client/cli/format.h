#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace quire::cli {

// 1234567 -> "1,234,567".
std::string WithCommas(int64_t number);
// Three digits that matter: 0.83, 4.21, 58.7, "1,252"; "-" for what is not a finite
// number.
std::string Rate(double number);
// "42 ms", "0.42 s", "12.3 s", "3 min 05 s", "1 h 02 min".
std::string Seconds(double seconds);
// Shorter, for the progress line: "2s", "3m05s", "1h02m".
std::string Countdown(double seconds);
// A share: "61.3 %", "6.1 %", "0.061 %".
std::string Percent(double share);
// "269 MB", "1.4 GB", powers of ten.
std::string Bytes(int64_t bytes);
// "134.5M", "1.5B".
std::string Count(int64_t number);
// Floating-point operations: "12 GFLOP", "3.4 TFLOP".
std::string Flops(double number);

// "90s", "1.5m", "1h30m", or a bare number of seconds; at least a millisecond.
// kInvalidArgument names the flag.
absl::StatusOr<absl::Duration> ParseTime(std::string_view flag, std::string_view text);

}  // namespace quire::cli

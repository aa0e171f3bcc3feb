#include "client/cli/format.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <iterator>

#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"

namespace quire::cli {
namespace {

// What a double holds may be too large for an integer.
int64_t Whole(double number) {
  return static_cast<int64_t>(std::clamp(std::round(number), -1e15, 1e15));
}

std::string Scaled(double number, std::string_view unit) {
  return absl::StrFormat("%.*f%s", number < 99.95 ? 1 : 0, number, unit);
}

}  // namespace

std::string WithCommas(int64_t number) {
  const std::string digits = std::to_string(number);
  const size_t first = number < 0 ? 1 : 0;
  std::string out;
  for (size_t i = 0; i < digits.size(); ++i) {
    if (i > first && (digits.size() - i) % 3 == 0) out += ',';
    out += digits[i];
  }
  return out;
}

std::string Rate(double number) {
  if (!std::isfinite(number)) return "-";
  if (number >= 99.95) return WithCommas(Whole(number));
  return absl::StrFormat("%.*f", number < 9.995 ? 2 : 1, number);
}

std::string Seconds(double seconds) {
  if (!std::isfinite(seconds)) return "-";
  if (seconds < 0.0995) {
    return absl::StrFormat("%d ms", Whole(std::max(seconds, 0.0) * 1e3));
  }
  if (seconds < 59.95) return absl::StrFormat("%.*f s", seconds < 9.995 ? 2 : 1, seconds);
  const int64_t whole = Whole(seconds);
  if (whole < 3600) return absl::StrFormat("%d min %02d s", whole / 60, whole % 60);
  return absl::StrFormat("%d h %02d min", whole / 3600, whole / 60 % 60);
}

std::string Countdown(double seconds) {
  if (!std::isfinite(seconds)) return "-";
  const int64_t whole = std::max<int64_t>(Whole(seconds), 0);
  if (whole < 60) return absl::StrFormat("%ds", whole);
  if (whole < 3600) return absl::StrFormat("%dm%02ds", whole / 60, whole % 60);
  return absl::StrFormat("%dh%02dm", whole / 3600, whole / 60 % 60);
}

std::string Percent(double share) {
  const double percent = 100 * share;
  return std::abs(percent) >= 1 || percent == 0 ? absl::StrFormat("%.1f %%", percent)
                                                : absl::StrFormat("%.2g %%", percent);
}

std::string Bytes(int64_t bytes) {
  const double value = static_cast<double>(bytes);
  if (value < 1e6) return Scaled(value / 1e3, " kB");
  return value < 1e9 ? Scaled(value / 1e6, " MB") : Scaled(value / 1e9, " GB");
}

std::string Count(int64_t number) {
  const double value = static_cast<double>(number);
  if (value < 1e6) return Scaled(value / 1e3, "K");
  return value < 1e9 ? Scaled(value / 1e6, "M") : Scaled(value / 1e9, "B");
}

std::string Flops(double number) {
  if (!std::isfinite(number)) return "-";
  constexpr const char* kUnits[] = {" MFLOP", " GFLOP", " TFLOP", " PFLOP"};
  double value = number / 1e6;
  size_t unit = 0;
  for (; value >= 999.5 && unit + 1 < std::size(kUnits); ++unit) value /= 1e3;
  return Scaled(value, kUnits[unit]);
}

absl::StatusOr<absl::Duration> ParseTime(std::string_view flag, std::string_view text) {
  const std::string value(text);
  absl::Duration duration;
  double seconds = 0;
  if (absl::SimpleAtod(value, &seconds) && !std::isnan(seconds)) {
    duration = absl::Seconds(seconds);
  } else if (!absl::ParseDuration(value, &duration)) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s is \"%s\"; write for example 90s, 5m or 1h30m", flag, value));
  }
  if (duration >= absl::Milliseconds(1)) return duration;
  return absl::InvalidArgumentError(
      absl::StrFormat("%s is \"%s\"; it must be at least 1ms", flag, value));
}

}  // namespace quire::cli

#include "client/cli/progress_bar.h"

#include <algorithm>
#include <array>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/cli/format.h"

namespace quire::cli {
namespace {

constexpr int kMinBarWidth = 10;
constexpr int kMaxBarWidth = 30;
constexpr absl::Duration kRedrawInterval = absl::Milliseconds(100);
constexpr absl::Duration kRateAfter = absl::Milliseconds(200);

std::string_view PhaseName(v1::Phase phase) {
  switch (phase) {
    case v1::PHASE_QUEUED:
      return "Waiting";
    case v1::PHASE_PREFILL:
      return "Reading";
    case v1::PHASE_DECODE:
      return "Writing";
    default:
      return "Working";
  }
}

double ShareDone(const v1::Progress& progress) {
  if (progress.total_tokens() <= 0) return 0;
  return std::clamp(static_cast<double>(progress.done_tokens()) /
                        static_cast<double>(progress.total_tokens()),
                    0.0, 1.0);
}

std::string Bar(double share, int width, bool unicode) {
  // Never full before the end.
  const int full = static_cast<int>(share * width);
  std::string bar;
  for (int i = 0; i < width; ++i) {
    if (unicode) {
      bar += i < full ? "\u2501" : "\u2500";
    } else {
      bar += i < full ? '#' : '.';
    }
  }
  return bar;
}

// In the order in which they are shown.
enum Part { kPercent, kTokens, kRate, kEta, kPass, kParts };

std::array<std::string, kParts> PartsOf(const v1::Progress& progress,
                                        std::optional<double> tokens_per_second) {
  std::array<std::string, kParts> parts;
  if (progress.total_tokens() > 0) {
    parts[kPercent] =
        absl::StrFormat("%3d%%", static_cast<int>(ShareDone(progress) * 100));
    parts[kTokens] = absl::StrCat(WithCommas(progress.done_tokens()), "/",
                                  WithCommas(progress.total_tokens()), " tokens");
  } else if (progress.done_tokens() > 0) {
    parts[kTokens] = absl::StrCat(WithCommas(progress.done_tokens()), " tokens");
  }
  if (tokens_per_second) parts[kRate] = absl::StrCat(Rate(*tokens_per_second), " tok/s");
  if (progress.has_eta_seconds()) {
    parts[kEta] = absl::StrCat("ETA ", Countdown(progress.eta_seconds()));
  }
  if (progress.passes() > 1) {
    parts[kPass] = absl::StrFormat("pass %d/%d", progress.pass(), progress.passes());
  }
  return parts;
}

}  // namespace

std::string RenderProgress(const v1::Progress& progress,
                           std::optional<double> tokens_per_second, int columns,
                           bool unicode) {
  const std::string name(PhaseName(progress.phase()));
  std::array<std::string, kParts> parts = PartsOf(progress, tokens_per_second);
  const bool has_bar = progress.total_tokens() > 0;
  int room = columns - 1 - static_cast<int>(name.size());
  if (room < 0) return "";
  // What matters most takes its place first; the bar lives on what is left.
  for (Part part : {kPercent, kEta, kPass, kRate, kTokens}) {
    const int width = static_cast<int>(parts[part].size()) + 2;
    const int reserve = has_bar && part != kPercent ? kMinBarWidth + 2 : 0;
    if (width + reserve > room) parts[part].clear();
    if (!parts[part].empty()) room -= width;
  }
  std::string line = name;
  const int bar_width = std::min(room - 2, kMaxBarWidth);
  if (has_bar && bar_width >= kMinBarWidth) {
    absl::StrAppend(&line, "  ", Bar(ShareDone(progress), bar_width, unicode));
  }
  for (const std::string& part : parts) {
    if (!part.empty()) absl::StrAppend(&line, "  ", part);
  }
  return line;
}

bool ProgressMeter::Update(const v1::Progress& progress, absl::Time now) {
  if (progress.phase() != phase_ || progress.pass() != pass_) {
    phase_ = progress.phase();
    pass_ = progress.pass();
    first_tokens_ = progress.done_tokens();
    first_time_ = now;
    tokens_per_second_.reset();
  }
  const absl::Duration elapsed = now - first_time_;
  const int64_t tokens = progress.done_tokens() - first_tokens_;
  if (elapsed >= kRateAfter && tokens > 0) {
    tokens_per_second_ = static_cast<double>(tokens) / absl::ToDoubleSeconds(elapsed);
  }
  if (now - last_drawn_ < kRedrawInterval) return false;
  last_drawn_ = now;
  return true;
}

}  // namespace quire::cli

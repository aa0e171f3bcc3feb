#include "server/page/history.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>

#include "absl/strings/str_cat.h"
#include "core/base/check.h"
#include "nlohmann/json.hpp"

namespace quire::server {
namespace {

constexpr double kUnknown = std::numeric_limits<double>::quiet_NaN();

// Equal, or both not known.
bool Same(double a, double b) { return a == b || (std::isnan(a) && std::isnan(b)); }

// Samples come a little early or late.
constexpr absl::Duration kSlack = absl::Milliseconds(200);

void AppendColumn(const std::vector<double>& column, std::string& out) {
  const bool still = std::all_of(column.begin(), column.end(),
                                 [&](double v) { return Same(v, column.front()); });
  if (still && !column.empty()) return AppendJsonNumber(column.front(), out);
  out += '[';
  for (size_t i = 0; i < column.size(); ++i) {
    if (i > 0) out += ',';
    AppendJsonNumber(column[i], out);
  }
  out += ']';
}

}  // namespace

void AppendJsonNumber(double value, std::string& out) {
  if (!std::isfinite(value)) {
    out += "null";
    return;
  }
  char text[32];
  const std::to_chars_result end = std::to_chars(text, text + sizeof(text), value);
  out.append(text, end.ptr);
}

void History::Add(absl::Time time, const Sample& sample) {
  const std::lock_guard lock(mutex_);
  const std::vector<double> row = RowOf(sample);
  // As they are told, so that `since` is exact.
  const double seconds = static_cast<double>(absl::ToUnixMillis(time)) / 1e3;
  for (size_t i = 0; i < kTiers.size(); ++i) {
    Ring& ring = rings_[i];
    if (time - ring.last < absl::Seconds(kTiers[i].step_seconds) - kSlack) continue;
    ring.last = time;
    Push(seconds, row, kTiers[i].samples, ring);
  }
}

std::vector<double> History::RowOf(const Sample& sample) {
  std::vector<double> row(names_.size(), kUnknown);
  for (const auto& [name, value] : sample) {
    if (!index_.contains(name)) {
      if (names_.size() == kMaxSeries) continue;
      index_.emplace(name, names_.size());
      names_.push_back(name);
      row.push_back(kUnknown);
    }
    row[index_.at(name)] = value;
  }
  return row;
}

void History::Push(double time, const std::vector<double>& row, size_t capacity,
                   Ring& ring) {
  ring.times.resize(capacity);
  ring.values.resize(row.size(), std::vector<double>(capacity, kUnknown));
  ring.times[ring.next] = time;
  for (size_t s = 0; s < row.size(); ++s) ring.values[s][ring.next] = row[s];
  ring.next = (ring.next + 1) % capacity;
  ring.count = std::min(ring.count + 1, capacity);
}

std::string History::Json(int64_t step_seconds, absl::Time since) const {
  const auto tier = std::find_if(kTiers.begin(), kTiers.end(), [&](const Tier& t) {
    return t.step_seconds == step_seconds;
  });
  QUIRE_CHECK(tier != kTiers.end());
  const double after = static_cast<double>(absl::ToUnixMillis(since)) / 1e3;
  const std::lock_guard lock(mutex_);
  const Ring& ring = rings_[static_cast<size_t>(tier - kTiers.begin())];
  std::vector<size_t> places;  // of the samples wanted, the oldest first
  for (size_t i = 0; i < ring.count; ++i) {
    const size_t at = (ring.next + tier->samples - ring.count + i) % tier->samples;
    if (ring.times[at] > after) places.push_back(at);
  }
  std::vector<double> column(places.size());
  const auto append = [&](const std::vector<double>& values, std::string& out) {
    for (size_t i = 0; i < places.size(); ++i) column[i] = values[places[i]];
    AppendColumn(column, out);
  };
  std::string out = absl::StrCat("{\"step\":", step_seconds, ",\"times\":[");
  for (size_t i = 0; i < places.size(); ++i) {
    if (i > 0) out += ',';
    AppendJsonNumber(ring.times[places[i]], out);
  }
  out += "],\"series\":{";
  for (size_t s = 0; s < ring.values.size() && !places.empty(); ++s) {
    if (s > 0) out += ',';
    absl::StrAppend(&out, nlohmann::json(names_[s]).dump(), ":");
    append(ring.values[s], out);
  }
  out += "}}";
  return out;
}

}  // namespace quire::server

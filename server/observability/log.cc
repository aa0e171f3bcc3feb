#include "server/observability/log.h"

#include <cstdio>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "core/base/check.h"

namespace quire::server {
namespace {

constexpr absl::string_view kLevels[] = {"debug", "info", "warning", "error"};

using Json = nlohmann::ordered_json;

Json Value(const LogValue& value) {
  return std::visit([](const auto& v) { return Json(v); }, value);
}

std::string Dump(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace

void Log::Write(LogLevel level, absl::string_view event, const LogFields& fields) {
  if (level < least_) return;
  const std::string time =
      absl::FormatTime("%Y-%m-%d%ET%H:%M:%E6SZ", absl::Now(), absl::UTCTimeZone());
  const absl::string_view level_name = kLevels[static_cast<int>(level)];
  std::string line;
  if (format_ == Format::kJson) {
    Json json = {{"time", time},
                 {"level", std::string(level_name)},
                 {"event", std::string(event)}};
    for (const auto& [name, value] : fields) json[std::string(name)] = Value(value);
    line = Dump(json);
  } else {
    line = absl::StrCat(time, " ", level_name, " ", event);
    // Quoted as JSON, so that one event stays one line.
    for (const auto& [name, value] : fields) {
      absl::StrAppend(&line, " ", name, "=", Dump(Value(value)));
    }
  }
  std::lock_guard lock(mutex_);
  sink_(line);
}

Log::Sink Log::StandardError() {
  return [](const std::string& line) {
    const std::string with_end = line + "\n";
    std::fwrite(with_end.data(), 1, with_end.size(), stderr);
  };
}

LogLevel ParseLogLevel(absl::string_view name) {
  for (int i = 0; i < 4; ++i) {
    if (kLevels[i] == name) return static_cast<LogLevel>(i);
  }
  QUIRE_CHECK(false && "a log level");
}

}  // namespace quire::server

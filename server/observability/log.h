#pragma once

#include <cstdint>
#include <functional>
#include <mutex>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace quire::server {

enum class LogLevel : uint8_t { kDebug, kInfo, kWarning, kError };

// One named value of a log line.
using LogValue = std::variant<std::string, int64_t, double, bool>;
using LogFields = std::vector<std::pair<absl::string_view, LogValue>>;

// Lines of structured log: one JSON object each, or text for people. Never given a
// request's text. Thread-safe; has its own lock.
class Log {
 public:
  enum class Format : uint8_t { kJson, kText };
  using Sink = std::function<void(const std::string& line)>;

  // The sink gets whole lines, without a newline, one at a time.
  Log(Format format, LogLevel least, Sink sink)
      : format_(format), least_(least), sink_(std::move(sink)) {}

  void Write(LogLevel level, absl::string_view event, const LogFields& fields);
  void Info(absl::string_view event, const LogFields& fields = {}) {
    Write(LogLevel::kInfo, event, fields);
  }
  void Error(absl::string_view event, const LogFields& fields = {}) {
    Write(LogLevel::kError, event, fields);
  }

  // Writes to standard error; what a full or closed pipe does not take is lost.
  static Sink StandardError();

 private:
  const Format format_;
  const LogLevel least_;
  std::mutex mutex_;  // guards the sink
  const Sink sink_;
};

// REQUIRES: one of "debug", "info", "warning", "error".
LogLevel ParseLogLevel(absl::string_view name);

}  // namespace quire::server

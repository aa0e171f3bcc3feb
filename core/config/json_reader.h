#pragma once

#include <cstdint>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace quire {

// Parses a JSON object that nobody vouches for: not longer than max_bytes, not nested
// deeper than 64, no key twice in one object, valid UTF-8. kInvalidArgument names `what`
// ("config.json"), the limit and the value. Internal to quire_logic: headers outside it
// never show nlohmann.
absl::StatusOr<nlohmann::json> ParseJsonObject(std::string_view text,
                                               std::string_view what, int64_t max_bytes);

// Fields of a JSON object with their types and ranges checked. The first problem stays in
// status() and later reads return their fallback, so a caller reads everything and looks
// once. A field that is null counts as missing. Not thread-safe; the object must outlive
// it.
class JsonReader {
 public:
  // `where` begins every message: "config.json: hidden_size is -1; it must be ...".
  JsonReader(const nlohmann::json& object, std::string where)
      : object_(object), where_(std::move(where)) {}

  // The field's value, or nullptr if it is missing or null.
  const nlohmann::json* Find(std::string_view name) const;
  bool IsExplicitNull(std::string_view name) const;

  // Without a fallback the field is required. Ranges are inclusive.
  int64_t Int(std::string_view name, std::optional<int64_t> fallback, int64_t min,
              int64_t max);
  double Number(std::string_view name, std::optional<double> fallback, double min,
                double max);
  bool Bool(std::string_view name, bool fallback);
  std::string String(std::string_view name, std::optional<std::string> fallback);
  // nullptr if missing; anything but an object is a problem.
  const nlohmann::json* Object(std::string_view name);
  // Empty if missing; one integer counts as a list of one.
  std::vector<int64_t> IntList(std::string_view name, size_t max_size, int64_t min,
                               int64_t max);
  std::vector<std::string> StringList(std::string_view name, size_t max_size);

  // Any field that is not in `known` is a problem: for formats of our own.
  void RefuseUnknown(std::initializer_list<std::string_view> known);

  // Keeps the problem unless there already is one. `message` follows "where: ".
  void Fail(absl::StatusCode code, absl::string_view message);
  // Keeps another reader's problem, if there is one, unless there already is one.
  void Adopt(const absl::Status& status) { status_.Update(status); }
  bool ok() const { return status_.ok(); }
  const absl::Status& status() const { return status_; }
  const std::string& where() const { return where_; }

 private:
  void FailField(std::string_view name, const nlohmann::json* value,
                 absl::string_view wanted);

  const nlohmann::json& object_;
  std::string where_;
  absl::Status status_;
};

// The value as JSON in ASCII, cut to a readable length, for messages.
std::string ShowJson(const nlohmann::json& value);

}  // namespace quire

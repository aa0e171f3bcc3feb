#include "core/config/json_reader.h"

#include <algorithm>
#include <functional>
#include <set>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "core/base/to_absl.h"

namespace quire {
namespace {

using nlohmann::json;

constexpr int kMaxDepth = 64;
constexpr size_t kShownChars = 60;

// Watches the parser go by: nlohmann itself keeps the last of two equal keys, silently.
class ParseGuard {
 public:
  bool operator()(int depth, json::parse_event_t event, const json& value) {
    if (event == json::parse_event_t::object_start) keys_.emplace_back();
    if (event == json::parse_event_t::object_end) keys_.pop_back();
    if (depth > kMaxDepth) Fail(absl::StrCat("is nested deeper than ", kMaxDepth));
    if (event == json::parse_event_t::key && !keys_.back().insert(value).second) {
      Fail(absl::StrCat("names ", ShowJson(value), " twice"));
    }
    return true;
  }
  const std::string& problem() const { return problem_; }

 private:
  void Fail(std::string problem) {
    if (problem_.empty()) problem_ = std::move(problem);
  }
  std::vector<std::set<std::string>> keys_;
  std::string problem_;
};

// What stands before the byte that the parser choked on: it usually names the field.
std::string Excerpt(std::string_view text, size_t byte) {
  const size_t end = std::min(byte, text.size());
  const size_t begin = end - std::min<size_t>(end, 24);
  std::string excerpt(text.substr(begin, end - begin));
  for (char& c : excerpt) {
    if (!absl::ascii_isprint(static_cast<unsigned char>(c))) c = '?';
  }
  return excerpt;
}

// nlohmann's own text without its "[json.exception...]" tag.
std::string_view WithoutTag(std::string_view message) {
  const size_t tag = message.find("] ");
  return tag == std::string_view::npos ? message : message.substr(tag + 2);
}

}  // namespace

std::string ShowJson(const json& value) {
  std::string text = value.dump(-1, ' ', true, json::error_handler_t::replace);
  if (text.size() > kShownChars) text = text.substr(0, kShownChars) + "...";
  return text;
}

absl::StatusOr<json> ParseJsonObject(std::string_view text, std::string_view what,
                                     int64_t max_bytes) {
  if (static_cast<int64_t>(text.size()) > max_bytes) {
    return absl::InvalidArgumentError(absl::StrCat(ToAbsl(what), " has ", text.size(),
                                                   " bytes; at most ", max_bytes,
                                                   " are allowed"));
  }
  ParseGuard guard;
  json parsed;
  try {
    parsed = json::parse(text.begin(), text.end(), std::ref(guard));
  } catch (const json::parse_error& error) {
    return absl::InvalidArgumentError(absl::StrCat(ToAbsl(what), " is not JSON at byte ",
                                                   error.byte, ", after '",
                                                   Excerpt(text, error.byte), "'"));
  } catch (const json::exception& error) {
    return absl::InvalidArgumentError(
        absl::StrCat(ToAbsl(what), ": ", ToAbsl(WithoutTag(error.what()))));
  }
  if (!guard.problem().empty()) {
    return absl::InvalidArgumentError(absl::StrCat(ToAbsl(what), " ", guard.problem()));
  }
  if (!parsed.is_object()) {
    return absl::InvalidArgumentError(absl::StrCat(ToAbsl(what), " is ", ShowJson(parsed),
                                                   "; it must be a JSON object"));
  }
  return parsed;
}

const json* JsonReader::Find(std::string_view name) const {
  const auto found = object_.find(name);
  return found == object_.end() || found->is_null() ? nullptr : &*found;
}

bool JsonReader::IsExplicitNull(std::string_view name) const {
  const auto found = object_.find(name);
  return found != object_.end() && found->is_null();
}

void JsonReader::Fail(absl::StatusCode code, absl::string_view message) {
  if (status_.ok()) status_ = absl::Status(code, absl::StrCat(where_, ": ", message));
}

void JsonReader::FailField(std::string_view name, const json* value,
                           absl::string_view wanted) {
  Fail(absl::StatusCode::kInvalidArgument,
       absl::StrCat(ToAbsl(name), " is ", value == nullptr ? "missing" : ShowJson(*value),
                    "; it must be ", wanted));
}

int64_t JsonReader::Int(std::string_view name, std::optional<int64_t> fallback,
                        int64_t min, int64_t max) {
  const json* value = Find(name);
  if (value == nullptr && fallback.has_value()) return *fallback;
  // An unsigned value above 2^63 - 1 would wrap in get<int64_t>, so it is compared
  // unsigned.
  const bool fits = value != nullptr && value->is_number_integer() &&
                    (!value->is_number_unsigned() ||
                     value->get<uint64_t>() <= static_cast<uint64_t>(INT64_MAX));
  if (fits && value->get<int64_t>() >= min && value->get<int64_t>() <= max) {
    return value->get<int64_t>();
  }
  FailField(name, value, absl::StrCat("an integer in [", min, ", ", max, "]"));
  return fallback.value_or(min);
}

double JsonReader::Number(std::string_view name, std::optional<double> fallback,
                          double min, double max) {
  const json* value = Find(name);
  if (value == nullptr && fallback.has_value()) return *fallback;
  if (value != nullptr && value->is_number()) {
    const double number = value->get<double>();
    if (number >= min && number <= max) return number;
  }
  FailField(name, value, absl::StrCat("a number in [", min, ", ", max, "]"));
  return fallback.value_or(min);
}

bool JsonReader::Bool(std::string_view name, bool fallback) {
  const json* value = Find(name);
  if (value == nullptr) return fallback;
  if (value->is_boolean()) return value->get<bool>();
  FailField(name, value, "true or false");
  return fallback;
}

std::string JsonReader::String(std::string_view name,
                               std::optional<std::string> fallback) {
  const json* value = Find(name);
  if (value == nullptr && fallback.has_value()) return *std::move(fallback);
  if (value != nullptr && value->is_string()) return value->get<std::string>();
  FailField(name, value, "a string");
  return std::move(fallback).value_or("");
}

const json* JsonReader::Object(std::string_view name) {
  const json* value = Find(name);
  if (value == nullptr || value->is_object()) return value;
  FailField(name, value, "an object");
  return nullptr;
}

std::vector<int64_t> JsonReader::IntList(std::string_view name, size_t max_size,
                                         int64_t min, int64_t max) {
  const json* value = Find(name);
  if (value == nullptr) return {};
  if (!value->is_array()) return {Int(name, std::nullopt, min, max)};
  std::vector<int64_t> list;
  for (const json& item : *value) {
    const json field = json::object({{std::string(name), item}});
    JsonReader reader(field, where_);
    list.push_back(reader.Int(name, std::nullopt, min, max));
    Adopt(reader.status());
  }
  if (list.size() > max_size) {
    FailField(name, value, absl::StrCat("a list of at most ", max_size, " integers"));
    list.clear();
  }
  return list;
}

std::vector<std::string> JsonReader::StringList(std::string_view name, size_t max_size) {
  const json* value = Find(name);
  if (value == nullptr) return {};
  const bool strings = value->is_array() && value->size() <= max_size &&
                       std::all_of(value->begin(), value->end(),
                                   [](const json& v) { return v.is_string(); });
  if (strings) return value->get<std::vector<std::string>>();
  FailField(name, value, absl::StrCat("a list of at most ", max_size, " strings"));
  return {};
}

void JsonReader::RefuseUnknown(std::initializer_list<std::string_view> known) {
  for (const auto& [name, value] : object_.items()) {
    if (std::find(known.begin(), known.end(), name) == known.end()) {
      Fail(absl::StatusCode::kInvalidArgument,
           absl::StrCat(ShowJson(json(name)), " is not a field of this file"));
    }
  }
}

}  // namespace quire

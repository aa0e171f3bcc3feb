#include "server/observability/http_path.h"

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"

namespace quire::server {
namespace {

std::optional<std::string> Unescape(absl::string_view text) {
  std::string result;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%') {
      result += text[i];
      continue;
    }
    if (i + 2 >= text.size() || !absl::ascii_isxdigit(text[i + 1]) ||
        !absl::ascii_isxdigit(text[i + 2])) {
      return std::nullopt;
    }
    unsigned byte = 0;
    if (!absl::SimpleHexAtoi(text.substr(i + 1, 2), &byte)) return std::nullopt;
    result += static_cast<char>(byte);
    i += 2;
  }
  return result;
}

bool IsPlain(absl::string_view path) {
  if (!absl::StartsWith(path, "/")) return false;
  for (const char c : path) {
    if (absl::ascii_iscntrl(c) || c == '\\') return false;
  }
  const std::vector<absl::string_view> segments = absl::StrSplit(path.substr(1), '/');
  for (size_t i = 0; i < segments.size(); ++i) {
    const bool last = i + 1 == segments.size();
    if (segments[i] == "." || segments[i] == "..") return false;
    if (segments[i].empty() && !last) return false;
  }
  return true;
}

bool Matches(const HttpRoute& route, absl::string_view path) {
  if (path == route.path) return true;
  if (!route.prefix || !absl::StartsWith(path, route.path)) return false;
  return absl::EndsWith(route.path, "/") || path[route.path.size()] == '/';
}

}  // namespace

std::optional<std::string> DecodeHttpPath(absl::string_view target) {
  std::optional<std::string> path = Unescape(target);
  if (path.has_value() && !IsPlain(*path)) path.reset();
  return path;
}

const HttpRoute* FindRoute(const std::vector<HttpRoute>& routes, absl::string_view path) {
  const HttpRoute* best = nullptr;
  for (const HttpRoute& route : routes) {
    const bool longer = best == nullptr || route.path.size() > best->path.size();
    if (longer && Matches(route, path)) best = &route;
  }
  return best;
}

}  // namespace quire::server

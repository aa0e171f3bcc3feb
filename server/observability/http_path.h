#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "server/observability/http_endpoint.h"

namespace quire::server {

// The path of a request's target as HttpRequest promises it; nullopt: it cannot be one
// (broken escapes, "..", control characters, not beginning with '/'). Decoded once.
std::optional<std::string> DecodeHttpPath(absl::string_view target);

// The longest route that matches, or null.
const HttpRoute* FindRoute(const std::vector<HttpRoute>& routes, absl::string_view path);

}  // namespace quire::server

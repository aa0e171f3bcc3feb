#pragma once

#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "server/observability/http_endpoint.h"

namespace quire::server {

// A file of the page, compiled into the binary.
struct Asset {
  absl::string_view name;  // "index.html"
  absl::string_view bytes;
};

// Made by embed.cmake.
absl::Span<const Asset> EmbeddedAssets();

// "/", "/request/..." and "/assets/NAME". Pages name the other files with a hash of all
// of them, so that browsers keep them for as long as they are the same. Thread-safe.
std::vector<HttpRoute> AssetRoutes(absl::Span<const Asset> assets);

}  // namespace quire::server

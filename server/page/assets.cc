#include "server/page/assets.h"

#include <map>
#include <memory>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/strip.h"
#include "core/base/check.h"

namespace quire::server {
namespace {

// What files write where the hash goes.
constexpr char kHashMark[] = "?v=HASH";

struct Served {
  std::string content_type;
  std::string bytes;
};
using Files = std::map<std::string, Served, std::less<>>;

const char* ContentType(absl::string_view name) {
  if (absl::EndsWith(name, ".html")) return "text/html; charset=utf-8";
  if (absl::EndsWith(name, ".css")) return "text/css; charset=utf-8";
  if (absl::EndsWith(name, ".js")) return "text/javascript; charset=utf-8";
  if (absl::EndsWith(name, ".svg")) return "image/svg+xml";
  return "text/plain; charset=utf-8";
}

// FNV-1a, 64 bits: tells versions apart, protects nothing.
uint64_t HashOf(absl::Span<const Asset> assets) {
  uint64_t hash = 0xcbf29ce484222325;
  for (const Asset& asset : assets) {
    for (const char byte : asset.bytes) {
      hash = (hash ^ static_cast<unsigned char>(byte)) * 0x100000001b3;
    }
  }
  return hash;
}

HttpResponse Respond(const Served& file, const char* caching) {
  return {.status = 200,
          .content_type = file.content_type,
          .body = file.bytes,
          .headers = {{"Cache-Control", caching}}};
}

HttpRoute PageRoute(std::string path, bool prefix, const Files& files, const char* name) {
  const auto file = files.find(name);
  QUIRE_CHECK(file != files.end());
  return {.path = std::move(path),
          .prefix = prefix,
          .handle = [page = file->second](const HttpRequest&) {
            return Respond(page, "no-cache");
          }};
}

}  // namespace

std::vector<HttpRoute> AssetRoutes(absl::Span<const Asset> assets) {
  const std::string version = absl::StrFormat("v=%016x", HashOf(assets));
  auto files = std::make_shared<Files>();
  for (const Asset& asset : assets) {
    std::string bytes =
        absl::StrReplaceAll(asset.bytes, {{kHashMark, absl::StrCat("?", version)}});
    files->emplace(std::string(asset.name),
                   Served{ContentType(asset.name), std::move(bytes)});
  }
  const auto serve = [files, version](const HttpRequest& request) {
    const auto file = files->find(absl::StripPrefix(request.path, "/assets/"));
    if (file == files->end()) return PlainText(404, "not found\n");
    return Respond(file->second, request.query == version
                                     ? "public, max-age=31536000, immutable"
                                     : "no-cache");
  };
  return {PageRoute("/", false, *files, "index.html"),
          PageRoute("/request", true, *files, "request.html"),
          {.path = "/assets", .prefix = true, .handle = serve}};
}

}  // namespace quire::server

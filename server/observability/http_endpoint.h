#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace quire::server {

// A GET or HEAD. The path is decoded, begins with '/' and has neither "." nor ".." nor
// empty segments but the last, nor control characters or backslashes. The query is what
// stands behind '?', as it was sent.
struct HttpRequest {
  std::string path;
  std::string query;
};

// Every answer also has Content-Length, X-Content-Type-Options, Referrer-Policy,
// Cache-Control (no-store) and Content-Security-Policy (nothing for other types; for HTML
// what this server serves); the last two are replaced by headers of the same name here.
struct HttpResponse {
  int status = 200;
  std::string content_type;
  std::string body;  // not sent for HEAD
  std::vector<std::pair<std::string, std::string>> headers;
};

HttpResponse PlainText(int status, absl::string_view text);

// Thread-safe, does not throw, and does not wait for anything: two threads serve all.
using HttpHandler = std::function<HttpResponse(const HttpRequest&)>;

// `path`, and with `prefix` also what is below it ("/a" and "/a/" both have "/a/b" below
// them, not "/ab").
struct HttpRoute {
  std::string path;
  bool prefix = false;
  HttpHandler handle;
};

// The HTTP port: answers by the longest route that matches. Another path is 404, so is
// one that tries to leave its folder; another method of a known path is 405; a request's
// line or headers over kMaxRequestBytes are 414 or 431. Bodies are never read. An idle or
// slow client costs a socket and no thread: kIdleSeconds without a byte end it, and so
// does the request limit, from an answer's end to the next one's. Beyond kMaxConnections
// new ones wait, beyond kMaxConnectionsPerHost of one host they are closed; while clients
// leave kMaxUnsentBytes of answers untaken, further ones are 503. Thread-safe.
class HttpEndpoint {
 public:
  static constexpr size_t kMaxRequestBytes = 16 << 10;
  static constexpr unsigned kMaxConnections = 4096;
  static constexpr unsigned kMaxConnectionsPerHost = 2048;
  static constexpr unsigned kIdleSeconds = 5;
  static constexpr int64_t kMaxUnsentBytes = int64_t{64} << 20;
  static constexpr absl::Duration kRequestLimit = absl::Seconds(30);

  // `address` is host:port; port 0 takes a free one. What the handlers use must outlive
  // the endpoint. kInvalidArgument: no address; kUnavailable: cannot listen there.
  static absl::StatusOr<std::unique_ptr<HttpEndpoint>> Start(
      const std::string& address, std::vector<HttpRoute> routes,
      absl::Duration request_limit = kRequestLimit);
  // Handlers in work return first; then all connections end.
  ~HttpEndpoint();

  // host:port with the port it listens on.
  const std::string& address() const;

 private:
  struct Rep;
  explicit HttpEndpoint(std::unique_ptr<Rep> rep);
  std::unique_ptr<Rep> rep_;
};

}  // namespace quire::server

#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "prometheus/collectable.h"
#include "server/rpc/serving_state.h"

namespace quire::server {

// The page for machines over HTTP: GET or HEAD of
//   /metrics   all sources in Prometheus' text format
//   /healthz   200 "ok" while serving; 503 "loading" or "draining" else
// Any other path is 404, any other method 405. Two threads; a request's line and headers
// are bounded by the library, its body is never read, 5 s without a byte end it.
// Thread-safe.
class HttpEndpoint {
 public:
  // `address` is host:port; port 0 takes a free one. The sources of /metrics and the
  // state must outlive the endpoint. kUnavailable: cannot listen there.
  static absl::StatusOr<std::unique_ptr<HttpEndpoint>> Start(
      const std::string& address, std::vector<const prometheus::Collectable*> sources,
      const ServingState& state);
  // Finishes the requests in work.
  ~HttpEndpoint();

  // host:port with the port it listens on.
  const std::string& address() const;

 private:
  struct Rep;
  explicit HttpEndpoint(std::unique_ptr<Rep> rep);
  std::unique_ptr<Rep> rep_;
};

}  // namespace quire::server

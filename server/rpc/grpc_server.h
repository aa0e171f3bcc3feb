#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "server/rpc/call_services.h"

namespace quire::server {

struct GrpcServerOptions {
  std::string listen = "127.0.0.1:0";  // host:port; port 0: a free one
  int32_t max_message_bytes = 64 << 20;
};

// The port: the services, health for each of them, reflection, keepalive and limits of
// gRPC. Listens from the start; health says NOT_SERVING until SetServing(true).
// Thread-safe.
class GrpcServer {
 public:
  // `services` must outlive the server. kUnavailable: cannot listen there.
  static absl::StatusOr<std::unique_ptr<GrpcServer>> Start(
      const GrpcServerOptions& options, CallServices& services);
  // Gives up what is in work.
  ~GrpcServer();

  void SetServing(bool serving);
  // host:port with the port it listens on.
  const std::string& address() const;
  // Takes no new connections; returns when every call is done, at the latest after
  // `timeout`.
  void Shutdown(absl::Duration timeout);

 private:
  struct Rep;
  explicit GrpcServer(std::unique_ptr<Rep> rep);
  std::unique_ptr<Rep> rep_;
};

}  // namespace quire::server

#pragma once

#include <string>

#include "server/observability/http_endpoint.h"
#include "server/page/history.h"
#include "server/page/request_log.h"
#include "server/rpc/serving_state.h"

namespace quire::server {

// What the page says of the server's configuration.
struct PageOptions {
  std::string grpc_address;
  double price_per_device_hour = 0;  // USD; 0: not set
  double shadow_share = 0;
};

// What the page reads, as JSON, below /api/v1:
//   overview                   what this server is: version, state, models, options
//   history?step=&since=       History::Json, and "state" and "requests_version"
//   requests?after=&limit=     SummaryJson of those that changed after that version
//   requests/ID                DetailJson of the newest of that id
//   requests/number/N          the same, by its number
// Errors are {"error":{"field":..,"message":..}}: 400 for parameters, 404 for the rest.
// Thread-safe; what it is given must outlive it.
class Api {
 public:
  Api(const PageOptions& options, const ServingState& state, const History& history,
      const RequestLog& requests);
  HttpRoute Route() const;

  static constexpr size_t kMaxRequests =
      RequestLog::kMaxAnswered + RequestLog::kMaxRefused;

 private:
  HttpResponse Handle(const HttpRequest& request) const;
  HttpResponse Overview(const HttpRequest& request) const;
  HttpResponse Samples(const HttpRequest& request) const;
  HttpResponse Requests(const HttpRequest& request) const;
  HttpResponse Request(const std::string& name) const;

  const PageOptions options_;
  const ServingState& state_;
  const History& history_;
  const RequestLog& requests_;
};

}  // namespace quire::server

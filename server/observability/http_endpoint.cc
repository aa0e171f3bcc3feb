#include "server/observability/http_endpoint.h"

#include <civetweb.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "core/base/status_macros.h"
#include "prometheus/metric_family.h"
#include "prometheus/text_serializer.h"
#include "server/config.h"

namespace quire::server {
namespace {

struct Answer {
  int code = 200;
  const char* reason = "OK";
  const char* content_type = "text/plain; charset=utf-8";
  const char* header = "";
  std::string body;
};

Answer Health(ServingState::Phase phase) {
  switch (phase) {
    case ServingState::Phase::kServing:
      return {.body = "ok\n"};
    case ServingState::Phase::kLoading:
      return {.code = 503, .reason = "Service Unavailable", .body = "loading\n"};
    case ServingState::Phase::kDraining:
      break;
  }
  return {.code = 503, .reason = "Service Unavailable", .body = "draining\n"};
}

using Sources = std::vector<const prometheus::Collectable*>;

std::string MetricsPage(const Sources& sources) {
  std::vector<prometheus::MetricFamily> families;
  for (const prometheus::Collectable* source : sources) {
    for (prometheus::MetricFamily& family : source->Collect()) {
      // A family without series yet is no part of the format.
      if (!family.metric.empty()) families.push_back(std::move(family));
    }
  }
  return prometheus::TextSerializer().Serialize(families);
}

Answer Route(absl::string_view method, absl::string_view path, const Sources& sources,
             const ServingState& state) {
  if (path != "/metrics" && path != "/healthz") {
    return {.code = 404, .reason = "Not Found", .body = "not found\n"};
  }
  if (method != "GET" && method != "HEAD") {
    return {.code = 405,
            .reason = "Method Not Allowed",
            .header = "Allow: GET, HEAD\r\n",
            .body = "method not allowed\n"};
  }
  if (path == "/healthz") return Health(state.phase());
  return {.content_type = "text/plain; version=0.0.4; charset=utf-8",
          .body = MetricsPage(sources)};
}

}  // namespace

struct HttpEndpoint::Rep {
  const Sources sources;
  const ServingState& state;
  std::string address;
  mg_context* server = nullptr;

  static int OnRequest(mg_connection* connection);
};

// Civetweb's door: called on its threads; the result says that the request was answered.
int HttpEndpoint::Rep::OnRequest(mg_connection* connection) {
  const mg_request_info& request = *mg_get_request_info(connection);
  const Rep& rep = *static_cast<const Rep*>(request.user_data);
  const absl::string_view path = request.local_uri != nullptr ? request.local_uri : "";
  const Answer answer = Route(request.request_method, path, rep.sources, rep.state);
  std::string out = absl::StrCat("HTTP/1.1 ", answer.code, " ", answer.reason,
                                 "\r\nContent-Type: ", answer.content_type,
                                 "\r\nContent-Length: ", answer.body.size(), "\r\n",
                                 answer.header, "Connection: close\r\n\r\n");
  if (absl::string_view(request.request_method) != "HEAD") out += answer.body;
  mg_write(connection, out.data(), out.size());
  return answer.code;
}

HttpEndpoint::HttpEndpoint(std::unique_ptr<Rep> rep) : rep_(std::move(rep)) {}

HttpEndpoint::~HttpEndpoint() { mg_stop(rep_->server); }

const std::string& HttpEndpoint::address() const { return rep_->address; }

absl::StatusOr<std::unique_ptr<HttpEndpoint>> HttpEndpoint::Start(
    const std::string& address, std::vector<const prometheus::Collectable*> sources,
    const ServingState& state) {
  QUIRE_ASSIGN_OR_RETURN(const HostPort wanted, ParseHostPort(address));
  auto rep = std::make_unique<Rep>(Rep{std::move(sources), state, address, nullptr});
  mg_callbacks callbacks{};
  callbacks.begin_request = &Rep::OnRequest;
  callbacks.log_message = [](const mg_connection*, const char*) { return 1; };
  const char* options[] = {"listening_ports",
                           address.c_str(),
                           "num_threads",
                           "2",
                           "request_timeout_ms",
                           "5000",
                           "enable_keep_alive",
                           "no",
                           nullptr};
  rep->server = mg_start(&callbacks, rep.get(), options);
  if (rep->server == nullptr) {
    return absl::UnavailableError(
        absl::StrCat("http_listen is '", address,
                     "'; cannot listen there (in use, not an address of this machine, or "
                     "not permitted)"));
  }
  mg_server_port port{};
  mg_get_server_ports(rep->server, 1, &port);
  rep->address = absl::StrCat(address.substr(0, address.rfind(':')), ":", port.port);
  return std::unique_ptr<HttpEndpoint>(new HttpEndpoint(std::move(rep)));
}

}  // namespace quire::server

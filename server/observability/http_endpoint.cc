#include "server/observability/http_endpoint.h"

#include <httplib.h>
#include <sys/socket.h>

#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "core/base/status_macros.h"
#include "prometheus/metric_family.h"
#include "prometheus/text_serializer.h"
#include "server/config.h"

namespace quire::server {
namespace {

constexpr int kThreads = 2;
constexpr int kTimeoutSeconds = 5;
constexpr char kPlain[] = "text/plain; charset=utf-8";
constexpr char kPrometheus[] = "text/plain; version=0.0.4; charset=utf-8";

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

void Answer(int code, const char* body, httplib::Response& response) {
  response.status = code;
  response.set_content(body, kPlain);
}

void AnswerHealth(ServingState::Phase phase, httplib::Response& response) {
  switch (phase) {
    case ServingState::Phase::kServing:
      return Answer(200, "ok\n", response);
    case ServingState::Phase::kLoading:
      return Answer(503, "loading\n", response);
    case ServingState::Phase::kDraining:
      return Answer(503, "draining\n", response);
  }
}

// Before the library looks at the body, which no request of ours needs.
void Route(const httplib::Request& request, const Sources& sources,
           const ServingState& state, httplib::Response& response) {
  if (request.path != "/metrics" && request.path != "/healthz") {
    return Answer(404, "not found\n", response);
  }
  if (request.method != "GET" && request.method != "HEAD") {
    response.set_header("Allow", "GET, HEAD");
    return Answer(405, "method not allowed\n", response);
  }
  if (request.path == "/healthz") return AnswerHealth(state.phase(), response);
  response.status = 200;
  response.set_content(MetricsPage(sources), kPrometheus);
}

// The library's own choice would let a second server take the same port.
void SetSocketOptions(int socket) {
  const int yes = 1;
  setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
}

}  // namespace

struct HttpEndpoint::Rep {
  httplib::Server server;
  std::string address;
  std::thread thread;
};

HttpEndpoint::HttpEndpoint(std::unique_ptr<Rep> rep) : rep_(std::move(rep)) {}

HttpEndpoint::~HttpEndpoint() {
  rep_->server.stop();
  rep_->thread.join();
}

const std::string& HttpEndpoint::address() const { return rep_->address; }

absl::StatusOr<std::unique_ptr<HttpEndpoint>> HttpEndpoint::Start(
    const std::string& address, std::vector<const prometheus::Collectable*> sources,
    const ServingState& state) {
  QUIRE_ASSIGN_OR_RETURN(const HostPort wanted, ParseHostPort(address));
  auto rep = std::make_unique<Rep>();
  httplib::Server& server = rep->server;
  server.new_task_queue = [] { return new httplib::ThreadPool(kThreads); };
  server.set_socket_options(SetSocketOptions);
  server.set_keep_alive_max_count(1);
  server.set_read_timeout(kTimeoutSeconds);
  server.set_write_timeout(kTimeoutSeconds);
  server.set_pre_routing_handler(
      [sources = std::move(sources), &state](const httplib::Request& request,
                                             httplib::Response& response) {
        Route(request, sources, state, response);
        return httplib::Server::HandlerResponse::Handled;
      });
  const int port = wanted.port == 0 ? server.bind_to_any_port(wanted.host)
                   : server.bind_to_port(wanted.host, wanted.port) ? wanted.port
                                                                   : -1;
  if (port < 0) {
    return absl::UnavailableError(
        absl::StrCat("http_listen is '", address,
                     "'; cannot listen there (in use, not an address of this machine, or "
                     "not permitted)"));
  }
  rep->address = absl::StrCat(address.substr(0, address.rfind(':')), ":", port);
  rep->thread = std::thread([&server] { server.listen_after_bind(); });
  // The library cannot be stopped before it runs.
  while (!server.is_running()) absl::SleepFor(absl::Milliseconds(1));
  return std::unique_ptr<HttpEndpoint>(new HttpEndpoint(std::move(rep)));
}

}  // namespace quire::server

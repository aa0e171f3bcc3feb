#include "server/observability/http_endpoint.h"

#include <microhttpd.h>
#include <netdb.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <optional>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "core/base/status_macros.h"
#include "server/config.h"
#include "server/observability/connection_watch.h"
#include "server/observability/http_path.h"

namespace quire::server {
namespace {

constexpr unsigned kThreads = 2;
constexpr int kBacklog = 1024;
constexpr char kNothing[] = "default-src 'none'; frame-ancestors 'none'";
constexpr char kOwn[] =
    "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

// A response's body, and the count of bytes that it is a part of, until it is sent.
struct Unsent {
  std::string body;
  std::atomic<int64_t>& bytes;
};

// A request whose first line is there.
struct BegunRequest {
  std::string target;
  bool seen = false;  // its headers are there too
};

void FreeUnsent(void* unsent) {
  auto* own = static_cast<Unsent*>(unsent);
  own->bytes -= static_cast<int64_t>(own->body.size());
  delete own;
}

bool HasHeader(const HttpResponse& response, absl::string_view name) {
  return std::any_of(
      response.headers.begin(), response.headers.end(),
      [&](const auto& h) { return absl::EqualsIgnoreCase(h.first, name); });
}

void AddHeaders(const HttpResponse& response, MHD_Response& to) {
  const auto add = [&](const char* name, const char* value) {
    if (!HasHeader(response, name)) MHD_add_response_header(&to, name, value);
  };
  const bool html = absl::StartsWith(response.content_type, "text/html");
  add("Content-Type", response.content_type.c_str());
  add("X-Content-Type-Options", "nosniff");
  add("Referrer-Policy", "no-referrer");
  add("Cache-Control", "no-store");
  add("Content-Security-Policy", html ? kOwn : kNothing);
  for (const auto& [name, value] : response.headers) {
    MHD_add_response_header(&to, name.c_str(), value.c_str());
  }
}

MHD_Result Send(MHD_Connection* connection, HttpResponse response, bool close,
                std::atomic<int64_t>& unsent_bytes) {
  const auto size = static_cast<int64_t>(response.body.size());
  if (unsent_bytes + size > HttpEndpoint::kMaxUnsentBytes) {
    response = PlainText(503, "too many answers wait for slow clients\n");
    close = true;
  }
  unsent_bytes += static_cast<int64_t>(response.body.size());
  auto* unsent = new Unsent{std::move(response.body), unsent_bytes};
  MHD_Response* wire = MHD_create_response_from_buffer_with_free_callback_cls(
      unsent->body.size(), unsent->body.data(), FreeUnsent, unsent);
  AddHeaders(response, *wire);
  if (close) MHD_add_response_header(wire, "Connection", "close");
  const MHD_Result queued =
      MHD_queue_response(connection, static_cast<unsigned>(response.status), wire);
  MHD_destroy_response(wire);  // the connection has its own reference
  return queued;
}

bool HasBody(MHD_Connection* connection) {
  const auto header = [&](const char* name) {
    return MHD_lookup_connection_value(connection, MHD_HEADER_KIND, name);
  };
  const char* length = header("Content-Length");
  return header("Transfer-Encoding") != nullptr ||
         (length != nullptr && absl::string_view(length) != "0");
}

// A socket that listens on one of the host's addresses, or -1.
int Listen(const HostPort& at) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE;
  addrinfo* found = nullptr;
  if (getaddrinfo(at.host.c_str(), absl::StrCat(at.port).c_str(), &hints, &found) != 0) {
    return -1;
  }
  int fd = -1;
  for (const addrinfo* it = found; it != nullptr && fd < 0; it = it->ai_next) {
    fd = socket(it->ai_family, it->ai_socktype | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) continue;
    const int yes = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
    if (bind(fd, it->ai_addr, it->ai_addrlen) != 0 || listen(fd, kBacklog) != 0) {
      close(fd);
      fd = -1;
    }
  }
  freeaddrinfo(found);
  return fd;
}

int PortOf(int socket) {
  sockaddr_storage address{};
  socklen_t size = sizeof(address);
  getsockname(socket, reinterpret_cast<sockaddr*>(&address), &size);
  char port[NI_MAXSERV] = "";
  getnameinfo(reinterpret_cast<sockaddr*>(&address), size, nullptr, 0, port, sizeof(port),
              NI_NUMERICSERV);
  return std::atoi(port);
}

absl::Status CannotListen(const std::string& address) {
  return absl::UnavailableError(
      absl::StrCat("http_listen is '", address,
                   "'; cannot listen there (in use, not an address of this machine, or "
                   "not permitted)"));
}

}  // namespace

HttpResponse PlainText(int status, absl::string_view text) {
  return {.status = status,
          .content_type = "text/plain; charset=utf-8",
          .body = std::string(text),
          .headers = {}};
}

struct HttpEndpoint::Rep {
  Rep(std::vector<HttpRoute> routes, absl::Duration request_limit)
      : routes(std::move(routes)), watch(request_limit) {}

  const std::vector<HttpRoute> routes;
  ConnectionWatch watch;
  std::string address;
  std::atomic<int64_t> unsent_bytes{0};
  MHD_Daemon* daemon = nullptr;

  HttpResponse Answer(absl::string_view method, absl::string_view target) const;
  absl::Status Run(int socket);
  static void* OnTarget(void* rep, const char* target, MHD_Connection* connection);
  static MHD_Result OnRequest(void* rep, MHD_Connection* connection, const char* url,
                              const char* method, const char* version, const char* upload,
                              size_t* upload_size, void** request);
  static void OnRequestEnd(void* rep, MHD_Connection* connection, void** request,
                           MHD_RequestTerminationCode why);
  static void OnConnection(void* rep, MHD_Connection* connection, void** context,
                           MHD_ConnectionNotificationCode what);
};

HttpResponse HttpEndpoint::Rep::Answer(absl::string_view method,
                                       absl::string_view target) const {
  const std::pair<absl::string_view, absl::string_view> parts =
      absl::StrSplit(target, absl::MaxSplits('?', 1));
  const std::optional<std::string> path = DecodeHttpPath(parts.first);
  const HttpRoute* route = path.has_value() ? FindRoute(routes, *path) : nullptr;
  if (route == nullptr) return PlainText(404, "not found\n");
  if (method != MHD_HTTP_METHOD_GET && method != MHD_HTTP_METHOD_HEAD) {
    HttpResponse refused = PlainText(405, "method not allowed\n");
    refused.headers.emplace_back("Allow", "GET, HEAD");
    return refused;
  }
  return route->handle({.path = *path, .query = std::string(parts.second)});
}

// The library calls this when the headers are there, and again when it would read the
// body. Answered in the first call it leaves the body alone, but has to close the
// connection; so requests without a body, which may be followed by others, are answered
// in the second.
MHD_Result HttpEndpoint::Rep::OnRequest(void* rep, MHD_Connection* connection,
                                        const char* /*url*/, const char* method,
                                        const char* /*version*/, const char* /*upload*/,
                                        size_t* /*upload_size*/, void** request) {
  auto& self = *static_cast<Rep*>(rep);
  auto& begun = *static_cast<BegunRequest*>(*request);
  const bool has_body = HasBody(connection);
  if (!has_body && !std::exchange(begun.seen, true)) return MHD_YES;
  return Send(connection, self.Answer(method, begun.target), has_body, self.unsent_bytes);
}

// The target as it was sent; the library's own decoding ends at an encoded zero byte.
void* HttpEndpoint::Rep::OnTarget(void* /*rep*/, const char* target,
                                  MHD_Connection* /*connection*/) {
  return new BegunRequest{.target = target};
}

void HttpEndpoint::Rep::OnRequestEnd(void* rep, MHD_Connection* connection,
                                     void** request, MHD_RequestTerminationCode /*why*/) {
  delete static_cast<BegunRequest*>(*request);
  *request = nullptr;
  const auto* info =
      MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
  static_cast<Rep*>(rep)->watch.OnAnswered(
      static_cast<ConnectionWatch::Entry*>(info->socket_context));
}

// At an end the socket is still open.
void HttpEndpoint::Rep::OnConnection(void* rep, MHD_Connection* connection,
                                     void** context,
                                     MHD_ConnectionNotificationCode what) {
  ConnectionWatch& watch = static_cast<Rep*>(rep)->watch;
  if (what == MHD_CONNECTION_NOTIFY_STARTED) {
    const auto* info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    *context = watch.Begin(info->connect_fd);
  } else {
    watch.End(static_cast<ConnectionWatch::Entry*>(*context));
  }
}

absl::Status HttpEndpoint::Rep::Run(int socket) {
  daemon = MHD_start_daemon(
      MHD_USE_EPOLL_INTERNAL_THREAD | MHD_USE_ITC, 0, nullptr, nullptr, &OnRequest, this,
      MHD_OPTION_LISTEN_SOCKET, socket, MHD_OPTION_THREAD_POOL_SIZE, kThreads,
      MHD_OPTION_CONNECTION_LIMIT, kMaxConnections, MHD_OPTION_PER_IP_CONNECTION_LIMIT,
      kMaxConnectionsPerHost, MHD_OPTION_CONNECTION_MEMORY_LIMIT, kMaxRequestBytes,
      MHD_OPTION_CONNECTION_TIMEOUT, kIdleSeconds, MHD_OPTION_STRICT_FOR_CLIENT, 1,
      MHD_OPTION_URI_LOG_CALLBACK, &OnTarget, this, MHD_OPTION_NOTIFY_COMPLETED,
      &OnRequestEnd, this, MHD_OPTION_NOTIFY_CONNECTION, &OnConnection, this,
      MHD_OPTION_END);
  if (daemon != nullptr) return absl::OkStatus();
  close(socket);
  return CannotListen(address);
}

HttpEndpoint::HttpEndpoint(std::unique_ptr<Rep> rep) : rep_(std::move(rep)) {}

HttpEndpoint::~HttpEndpoint() {
  if (rep_->daemon != nullptr) MHD_stop_daemon(rep_->daemon);
}

const std::string& HttpEndpoint::address() const { return rep_->address; }

absl::StatusOr<std::unique_ptr<HttpEndpoint>> HttpEndpoint::Start(
    const std::string& address, std::vector<HttpRoute> routes,
    absl::Duration request_limit) {
  QUIRE_ASSIGN_OR_RETURN(const HostPort wanted, ParseHostPort(address));
  const int socket = Listen(wanted);
  if (socket < 0) return CannotListen(address);
  auto rep = std::make_unique<Rep>(std::move(routes), request_limit);
  rep->address = absl::StrCat(address.substr(0, address.rfind(':')), ":", PortOf(socket));
  QUIRE_RETURN_IF_ERROR(rep->Run(socket));
  return std::unique_ptr<HttpEndpoint>(new HttpEndpoint(std::move(rep)));
}

}  // namespace quire::server

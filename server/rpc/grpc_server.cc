#include "server/rpc/grpc_server.h"

#include <mutex>
#include <utility>

#include "absl/strings/str_cat.h"
#include "grpc/health/v1/health.pb.h"
#include "grpcpp/ext/proto_server_reflection_plugin.h"
#include "grpcpp/grpcpp.h"
#include "grpcpp/health_check_service_interface.h"
#include "server/rpc/services.h"

namespace quire::server {
namespace {

constexpr int kKeepaliveSeconds = 60;
constexpr int kKeepaliveTimeoutSeconds = 20;
// Clients may ping as often as that, streams or none.
constexpr int kMinPingSeconds = 10;
constexpr int kMaxStreamsPerConnection = 1024;
constexpr int kMaxMetadataBytes = 16 << 10;

// Once in a process, before the first server.
void EnableHealthAndReflection() {
  static std::once_flag once;
  std::call_once(once, [] {
    grpc::EnableDefaultHealthCheckService(true);
    grpc::reflection::InitProtoReflectionServerBuilderPlugin();
    // gRPC's own health service brings no descriptor: linked in, for reflection to find.
    grpc::health::v1::HealthCheckRequest::descriptor();
  });
}

void SetLimits(grpc::ServerBuilder& builder, const GrpcServerOptions& options) {
  builder.SetMaxReceiveMessageSize(options.max_message_bytes);
  // A second server on the same port is an error, not a way to share it.
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, kMaxStreamsPerConnection);
  builder.AddChannelArgument(GRPC_ARG_MAX_METADATA_SIZE, kMaxMetadataBytes);
  // Finds clients that vanished without a word.
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, kKeepaliveSeconds * 1000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS,
                             kKeepaliveTimeoutSeconds * 1000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS,
                             kMinPingSeconds * 1000);
}

}  // namespace

struct GrpcServer::Rep {
  explicit Rep(CallServices& services) : inference(services), models(services) {}
  InferenceService inference;
  ModelService models;
  std::unique_ptr<grpc::Server> server;
  std::string address;
};

GrpcServer::GrpcServer(std::unique_ptr<Rep> rep) : rep_(std::move(rep)) {}

GrpcServer::~GrpcServer() { Shutdown(absl::ZeroDuration()); }

const std::string& GrpcServer::address() const { return rep_->address; }

void GrpcServer::SetServing(bool serving) {
  grpc::HealthCheckServiceInterface* health = rep_->server->GetHealthCheckService();
  for (const char* name : {v1::InferenceService::service_full_name(),
                           v1::ModelService::service_full_name(), ""}) {
    health->SetServingStatus(name, serving);
  }
}

void GrpcServer::Shutdown(absl::Duration timeout) {
  rep_->server->Shutdown(absl::ToChronoTime(absl::Now() + timeout));
  rep_->server->Wait();
}

absl::StatusOr<std::unique_ptr<GrpcServer>> GrpcServer::Start(
    const GrpcServerOptions& options, CallServices& services) {
  EnableHealthAndReflection();
  auto rep = std::make_unique<Rep>(services);
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort(options.listen, grpc::InsecureServerCredentials(), &port);
  builder.RegisterService(&rep->inference);
  builder.RegisterService(&rep->models);
  SetLimits(builder, options);
  rep->server = builder.BuildAndStart();
  if (rep->server == nullptr || port <= 0) {
    return absl::UnavailableError(
        absl::StrCat("listen is '", options.listen,
                     "'; cannot listen there (in use, not an address of this machine, or "
                     "not permitted)"));
  }
  rep->address =
      absl::StrCat(options.listen.substr(0, options.listen.rfind(':')), ":", port);
  std::unique_ptr<GrpcServer> server(new GrpcServer(std::move(rep)));
  server->SetServing(false);
  return server;
}

}  // namespace quire::server

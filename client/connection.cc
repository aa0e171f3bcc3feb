#include "client/connection.h"

#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/support/channel_arguments.h>

#include <algorithm>

namespace quire::client {
namespace {

int Milliseconds(absl::Duration duration) {
  return static_cast<int>(absl::ToInt64Milliseconds(std::min(duration, absl::Hours(24))));
}

}  // namespace

bool IsLoopback(std::string_view address) {
  for (std::string_view start :
       {"127.", "localhost:", "[::1]:", "unix:", "unix-abstract:"}) {
    if (address.starts_with(start)) return true;
  }
  return false;
}

std::shared_ptr<grpc::Channel> MakeChannel(const ClientOptions& options) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(options.max_receive_message_bytes);
  arguments.SetMaxSendMessageSize(options.max_send_message_bytes);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, Milliseconds(options.keepalive_interval));
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS,
                   Milliseconds(options.keepalive_timeout));
  // Trying again is this library's work, and it must be seen doing it.
  arguments.SetInt(GRPC_ARG_ENABLE_RETRIES, 0);
  // Else a second try finds the channel still sulking about the first one.
  const int reconnect = Milliseconds(options.retry.initial_backoff) / 2;
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, std::max(reconnect, 1));
  // A server that comes back after an hour is found as soon as one after a minute.
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS,
                   std::max(Milliseconds(options.retry.max_backoff), 1));
  // Despite its name, how long one attempt to connect may take.
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS,
                   Milliseconds(options.connect_timeout));
  if (IsLoopback(options.address)) arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  arguments.SetUserAgentPrefix("quire-client");
  return grpc::CreateCustomChannel(options.address, grpc::InsecureChannelCredentials(),
                                   arguments);
}

}  // namespace quire::client

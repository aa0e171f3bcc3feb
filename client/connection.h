#pragma once

#include <memory>
#include <string_view>

#include "client/client_options.h"

namespace grpc {
class Channel;
}

namespace quire::client {

// An unencrypted channel as the options say; connects when it is first used.
std::shared_ptr<grpc::Channel> MakeChannel(const ClientOptions& options);

// Whether the address is this machine's own: such a call must not go to the HTTP proxy
// that the environment names.
bool IsLoopback(std::string_view address);

}  // namespace quire::client

#pragma once

#include <string>

#include "absl/status/status.h"

namespace quire::server {

// Writes "grpc=ADDRESS\n" and, unless http_address is empty, "http=ADDRESS\n", all at
// once: who sees the file sees all of it. kUnavailable names the file and why.
absl::Status WritePortFile(const std::string& path, const std::string& grpc_address,
                           const std::string& http_address);

}  // namespace quire::server

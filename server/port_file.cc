#include "server/port_file.h"

#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>

#include "absl/strings/str_cat.h"

namespace quire::server {

absl::Status WritePortFile(const std::string& path, const std::string& grpc_address,
                           const std::string& http_address) {
  const std::string unfinished = absl::StrCat(path, ".", getpid());
  std::ofstream file(unfinished, std::ios::trunc);
  file << "grpc=" << grpc_address << "\n";
  if (!http_address.empty()) file << "http=" << http_address << "\n";
  file.close();
  if (file && std::rename(unfinished.c_str(), path.c_str()) == 0) return absl::OkStatus();
  const int error = errno;
  std::remove(unfinished.c_str());
  return absl::UnavailableError(absl::StrCat(
      "port_file is '", path, "'; it cannot be written: ", std::strerror(error)));
}

}  // namespace quire::server

#pragma once

#include <string>

#include "absl/time/time.h"

namespace quire::server {

// A TCP connection to host:port (an IPv4 address), closed when destroyed.
class TestSocket {
 public:
  explicit TestSocket(const std::string& address);
  TestSocket(TestSocket&& other) noexcept : fd_(other.fd_) { other.fd_ = -1; }
  TestSocket& operator=(TestSocket&&) = delete;
  ~TestSocket();

  bool connected() const { return fd_ >= 0; }
  bool Send(const std::string& bytes);
  // All bytes until the other side closes, or until none come for `patience`.
  std::string ReadAll(absl::Duration patience = absl::Seconds(20));
  // One answer with Content-Length, so that the connection can be used again.
  std::string ReadAnswer();
  // True: the other side has closed, within `patience`.
  bool WaitForClose(absl::Duration patience);

 private:
  int fd_ = -1;
};

// What the address answers to these bytes, headers and all, until it closes.
std::string Exchange(const std::string& address, const std::string& request);

// The same of a request without a body.
std::string Ask(const std::string& address, const std::string& method,
                const std::string& path);

}  // namespace quire::server

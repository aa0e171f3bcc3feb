#include "tests/server/http_client.h"

#include <arpa/inet.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <cerrno>

#include "absl/strings/numbers.h"
#include "absl/strings/string_view.h"
#include "server/config.h"

namespace quire::server {
namespace {

void SetPatience(int fd, absl::Duration patience) {
  const timeval limit = absl::ToTimeval(patience);
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
}

}  // namespace

TestSocket::TestSocket(const std::string& address) {
  const HostPort at = *ParseHostPort(address);
  sockaddr_in peer{};
  peer.sin_family = AF_INET;
  peer.sin_port = htons(static_cast<uint16_t>(at.port));
  inet_pton(AF_INET, at.host.c_str(), &peer.sin_addr);
  fd_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (connect(fd_, reinterpret_cast<const sockaddr*>(&peer), sizeof(peer)) != 0) {
    close(fd_);
    fd_ = -1;
  }
}

TestSocket::~TestSocket() {
  if (fd_ >= 0) close(fd_);
}

bool TestSocket::Send(const std::string& bytes) {
  return send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL) ==
         static_cast<ssize_t>(bytes.size());
}

std::string TestSocket::ReadAll(absl::Duration patience) {
  SetPatience(fd_, patience);
  std::string answer;
  char buffer[16384];
  for (ssize_t n = 0; (n = recv(fd_, buffer, sizeof(buffer), 0)) > 0;) {
    answer.append(buffer, static_cast<size_t>(n));
  }
  return answer;
}

std::string TestSocket::ReadAnswer() {
  SetPatience(fd_, absl::Seconds(20));
  std::string answer;
  size_t wanted = std::string::npos;
  char byte = 0;
  while (answer.size() < wanted && recv(fd_, &byte, 1, 0) == 1) {
    answer += byte;
    const size_t length = answer.find("Content-Length: ");
    if (wanted != std::string::npos || length == std::string::npos) continue;
    const size_t end = answer.find("\r\n\r\n", length);
    if (end == std::string::npos) continue;
    size_t bytes = 0;
    const absl::string_view value = absl::string_view(answer).substr(length + 16);
    if (!absl::SimpleAtoi(value.substr(0, value.find('\r')), &bytes)) break;
    wanted = end + 4 + bytes;
  }
  return answer;
}

bool TestSocket::WaitForClose(absl::Duration patience) {
  SetPatience(fd_, patience);
  char buffer[4096];
  ssize_t n = 0;
  while ((n = recv(fd_, buffer, sizeof(buffer), 0)) > 0) {
  }
  return n == 0 || errno == ECONNRESET;
}

std::string Exchange(const std::string& address, const std::string& request) {
  TestSocket socket(address);
  return socket.connected() && socket.Send(request) ? socket.ReadAll() : "";
}

std::string Ask(const std::string& address, const std::string& method,
                const std::string& path) {
  return Exchange(address, method + " " + path +
                               " HTTP/1.1\r\nHost: quire\r\nConnection: close\r\n\r\n");
}

}  // namespace quire::server

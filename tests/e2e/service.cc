#include "tests/e2e/service.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <fstream>
#include <sstream>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "tests/support/temp_path.h"

namespace quire::e2e {
namespace {

std::string ReadFile(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path, std::ios::binary).rdbuf();
  return text.str();
}

// The value of a line KEY=VALUE, or "".
std::string ValueOf(const std::string& lines, const std::string& key) {
  for (const absl::string_view line : absl::StrSplit(lines, '\n')) {
    if (absl::StartsWith(line, key + "="))
      return std::string(line.substr(key.size() + 1));
  }
  return "";
}

std::string Exchange(const std::string& address, const std::string& request) {
  const size_t colon = address.rfind(':');
  sockaddr_in peer{};
  peer.sin_family = AF_INET;
  peer.sin_port = htons(static_cast<uint16_t>(std::stoi(address.substr(colon + 1))));
  inet_pton(AF_INET, address.substr(0, colon).c_str(), &peer.sin_addr);
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  std::string answer;
  if (connect(fd, reinterpret_cast<const sockaddr*>(&peer), sizeof(peer)) == 0 &&
      send(fd, request.data(), request.size(), MSG_NOSIGNAL) > 0) {
    char buffer[4096];
    for (ssize_t count; (count = recv(fd, buffer, sizeof(buffer), 0)) > 0;) {
      answer.append(buffer, static_cast<size_t>(count));
    }
  }
  close(fd);
  return answer;
}

}  // namespace

std::string QuireBinary() { return QUIRE_BINARY; }

std::string ServerBinary() { return QUIRE_SERVER_BINARY; }

std::string ModelFolder(const std::string& name) {
  return absl::StrCat(QUIRE_MODELS_DIR, "/", name);
}

std::string SampleText() {
  const std::string text =
      ReadFile(absl::StrCat(QUIRE_SAMPLE_DIR, "/arrest-of-arsene-lupin.txt"));
  EXPECT_FALSE(text.empty());
  return text;
}

std::string SampleText(size_t bytes) {
  std::string text = SampleText();
  while (bytes > 0 && (static_cast<unsigned char>(text[bytes]) & 0xC0) == 0x80) --bytes;
  text.resize(bytes);
  return text;
}

TemporaryFile::TemporaryFile(const std::string& contents) : path_(TempPath("e2e")) {
  std::ofstream(path_, std::ios::binary) << contents;
}

TemporaryFile::~TemporaryFile() { unlink(path_.c_str()); }

Server::Server(const std::vector<std::string>& models,
               const std::vector<std::string>& flags)
    : port_file_(TempPath("ports")) {
  std::vector<std::string> arguments = {ServerBinary(), "--port-file", port_file_};
  for (const std::string& model : models) {
    arguments.insert(arguments.end(), {"--model", model});
  }
  arguments.insert(arguments.end(), flags.begin(), flags.end());
  process_ = std::make_unique<Process>(
      arguments, std::vector<std::string>{"QUIRE_THREADS=1", "QUIRE_LISTEN=127.0.0.1:0",
                                          "QUIRE_HTTP_LISTEN=127.0.0.1:0"});
  EXPECT_TRUE(WaitUntil([this] {
    return process_->exited() || access(port_file_.c_str(), R_OK) == 0;
  })) << log();
  const std::string ports = ReadFile(port_file_);
  grpc_ = ValueOf(ports, "grpc");
  http_ = ValueOf(ports, "http");
}

Server::~Server() {
  process_.reset();
  unlink(port_file_.c_str());
}

bool Server::WaitForLog(const std::string& text) {
  return WaitUntil([&] { return absl::StrContains(log(), text); });
}

std::string Server::Http(const std::string& method, const std::string& path) const {
  return Exchange(http_,
                  absl::StrCat(method, " ", path,
                               " HTTP/1.1\r\nHost: q\r\nConnection: close\r\n\r\n"));
}

double Server::Metric(const std::string& series) const {
  const std::string page = Http("GET", "/metrics");
  for (const absl::string_view line : absl::StrSplit(page, '\n')) {
    double value = 0;
    if (absl::StartsWith(line, series + " ") &&
        absl::SimpleAtod(line.substr(series.size() + 1), &value)) {
      return value;
    }
  }
  return -1;
}

bool Server::WaitForMetric(const std::string& series, double value) const {
  return WaitUntil([&] { return Metric(series) == value; });
}

int Server::Stop() {
  process_->Signal(SIGTERM);
  return process_->Wait().exit_code;
}

ProcessResult RunQuire(const Server& server, const std::vector<std::string>& arguments,
                       const std::string& input) {
  const auto process = StartQuire(server, arguments);
  process->Feed(input);
  return process->Wait();
}

std::unique_ptr<Process> StartQuire(const Server& server,
                                    std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), {QuireBinary(), "--server", server.grpc()});
  return std::make_unique<Process>(arguments);
}

}  // namespace quire::e2e

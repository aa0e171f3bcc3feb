#pragma once

#include <memory>
#include <string>
#include <vector>

#include "tests/e2e/process.h"

// The two programs as their users have them, and the little that their tests share.
namespace quire::e2e {

// Where the programs were built.
std::string QuireBinary();
std::string ServerBinary();
// models/NAME of the repository.
std::string ModelFolder(const std::string& name);

// The bundled story, and its first `bytes` bytes (fewer: no character is split).
std::string SampleText();
std::string SampleText(size_t bytes);

// A file of its own for each test, gone with the object.
class TemporaryFile {
 public:
  explicit TemporaryFile(const std::string& contents);
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;
  ~TemporaryFile();
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

// A running `quire-server` on free ports of the loopback. One CPU thread a step, as ctest
// runs two tests at a time, unless the flags say otherwise. The constructor waits until
// it is ready, or has ended: see ready().
class Server {
 public:
  explicit Server(const std::vector<std::string>& models,
                  const std::vector<std::string>& flags = {});
  ~Server();

  // False: it ended instead; Wait has the reason.
  bool ready() const { return !grpc_.empty(); }
  const std::string& grpc() const { return grpc_; }
  const std::string& http() const { return http_; }
  std::string log() const { return process_->err(); }
  // Waits until the log has this; false: never.
  bool WaitForLog(const std::string& text);

  // The status line, headers and body that the HTTP port answers.
  std::string Http(const std::string& method, const std::string& path) const;
  // The page's value of "name{label=\"value\"}" exactly as written there; -1: no line.
  double Metric(const std::string& series) const;
  bool WaitForMetric(const std::string& series, double value) const;

  void Signal(int signal) { process_->Signal(signal); }
  bool exited() { return process_->exited(); }
  ProcessResult Wait() { return process_->Wait(); }
  // SIGTERM, then the exit code.
  int Stop();

 private:
  std::string port_file_;
  std::unique_ptr<Process> process_;
  std::string grpc_, http_;
};

// Runs `quire --server SERVER ARGUMENT...` to its end, with this on standard input.
ProcessResult RunQuire(const Server& server, const std::vector<std::string>& arguments,
                       const std::string& input = "");
// The same, left running.
std::unique_ptr<Process> StartQuire(const Server& server,
                                    std::vector<std::string> arguments);

}  // namespace quire::e2e

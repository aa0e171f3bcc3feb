#pragma once

#include <sys/types.h>

#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "absl/functional/function_ref.h"

namespace quire::e2e {

// How long anything may take before a test gives up on it. Not a statement on speed: the
// machine may be busy, and the binaries may be built with a sanitizer.
inline constexpr int kPatienceSeconds = 300;

// Asks until it is true, or for kPatienceSeconds; false: it never was.
bool WaitUntil(absl::FunctionRef<bool()> condition);

struct ProcessResult {
  int exit_code = -1;  // 1000 + the signal that ended it
  std::string out;
  std::string err;
};

// A program and pipes to its three streams; its output is collected as it comes.
// Destroying it kills it. One thread uses it.
class Process {
 public:
  // arguments[0]: the program's path. environment: NAME=VALUE, on top of this process's.
  explicit Process(const std::vector<std::string>& arguments,
                   const std::vector<std::string>& environment = {});
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;
  ~Process();

  // Writes all of the text to standard input and closes it; a reader that leaves is none
  // of its business.
  void Feed(const std::string& text);
  void Signal(int signal);
  // What it wrote so far.
  std::string out() const;
  std::string err() const;
  bool exited();
  // Until it ends, or until kPatienceSeconds passed: then it is killed and the test
  // fails.
  ProcessResult Wait();

 private:
  // Collects a stream until its end.
  class Collector {
   public:
    ~Collector();
    void Start(int fd);
    std::string text() const;
    void Join();

   private:
    mutable std::mutex mutex_;  // guards text_
    std::string text_;
    std::thread thread_;
  };

  pid_t pid_ = -1;
  int in_ = -1;
  Collector out_, err_;
  bool exited_ = false;
  int exit_code_ = -1;
};

}  // namespace quire::e2e

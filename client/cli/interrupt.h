#pragma once

#include <memory>
#include <thread>

#include "client/cancel_token.h"

namespace quire::cli {

// While it lives, the first SIGINT or SIGTERM cancels the token; the second ends the
// process at once. One per process, made before other threads.
class Interrupt {
 public:
  explicit Interrupt(std::shared_ptr<client::CancelToken> token);
  ~Interrupt();
  Interrupt(const Interrupt&) = delete;
  Interrupt& operator=(const Interrupt&) = delete;

  // Readable once a signal has come; nobody reads it, so it stays so.
  int fd() const;
  // 128 + the signal that came; 0: none.
  int exit_code() const;

 private:
  void Watch();

  const std::shared_ptr<client::CancelToken> token_;
  int stop_fds_[2] = {-1, -1};
  std::thread watcher_;
};

}  // namespace quire::cli

#pragma once

#include <string_view>

#include "client/cli/console.h"

namespace quire::cli {

// A file descriptor, not owned. SIGPIPE must be ignored.
class FdOutput final : public Output {
 public:
  explicit FdOutput(int fd) : fd_(fd) {}
  absl::Status Write(std::string_view bytes) override;
  bool is_terminal() const override;
  int columns() const override;
  int rows() const override;

 private:
  const int fd_;
};

// A file descriptor, not owned.
class FdInput final : public Input {
 public:
  // Reads end with kCancelled once `interrupt_fd` is readable; -1: never.
  FdInput(int fd, int interrupt_fd) : fd_(fd), interrupt_fd_(interrupt_fd) {}
  absl::StatusOr<size_t> Read(char* buffer, size_t size) override;
  bool is_terminal() const override;

 private:
  const int fd_;
  const int interrupt_fd_;
};

}  // namespace quire::cli

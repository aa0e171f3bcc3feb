#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "client/cancel_token.h"
#include "client/client_options.h"

namespace quire::cli {

// Where the program's bytes go. One thread.
class Output {
 public:
  virtual ~Output() = default;
  // All of them. kCancelled: nobody reads any more (EPIPE); kUnknown: what the system
  // says, such as a full disk.
  virtual absl::Status Write(std::string_view bytes) = 0;
  virtual bool is_terminal() const = 0;
  // Of the terminal, now.
  virtual int columns() const = 0;
  virtual int rows() const = 0;
};

// Where they come from. One thread.
class Input {
 public:
  virtual ~Input() = default;
  // At least one byte; 0: the end. kCancelled: interrupted; kUnknown: what the system
  // says.
  virtual absl::StatusOr<size_t> Read(char* buffer, size_t size) = 0;
  virtual bool is_terminal() const = 0;
};

// All that the program touches of the outside world, so that tests own it.
struct Environment {
  Input& in;
  Output& out;
  Output& err;
  bool unicode = false;  // whether the terminal shows more than ASCII
  std::shared_ptr<client::CancelToken> cancel;
  std::function<absl::Time()> now;
  client::ClientHooks hooks;
};

}  // namespace quire::cli

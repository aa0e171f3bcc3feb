#include "client/cli/fd_streams.h"

#include <poll.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace quire::cli {
namespace {

constexpr int kDefaultColumns = 80;
constexpr int kDefaultRows = 24;

absl::Status SystemError() { return absl::UnknownError(std::strerror(errno)); }

void WaitWritable(int fd) {
  pollfd waiting = {fd, POLLOUT, 0};
  poll(&waiting, 1, -1);
}

}  // namespace

absl::Status FdOutput::Write(std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t written = write(fd_, bytes.data(), bytes.size());
    if (written >= 0) {
      bytes.remove_prefix(static_cast<size_t>(written));
    } else if (errno == EPIPE) {
      return absl::CancelledError("nobody reads the output any more");
    } else if (errno == EAGAIN) {
      // A terminal that another program left non-blocking.
      WaitWritable(fd_);
    } else if (errno != EINTR) {
      return SystemError();
    }
  }
  return absl::OkStatus();
}

bool FdOutput::is_terminal() const { return isatty(fd_) == 1; }

int FdOutput::columns() const {
  winsize size = {};
  if (ioctl(fd_, TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return kDefaultColumns;
  return size.ws_col;
}

int FdOutput::rows() const {
  winsize size = {};
  if (ioctl(fd_, TIOCGWINSZ, &size) != 0 || size.ws_row == 0) return kDefaultRows;
  return size.ws_row;
}

absl::StatusOr<size_t> FdInput::Read(char* buffer, size_t size) {
  while (true) {
    pollfd waiting[] = {{fd_, POLLIN, 0}, {interrupt_fd_, POLLIN, 0}};
    if (poll(waiting, 2, -1) < 0 && errno != EINTR) return SystemError();
    if (waiting[1].revents != 0) return absl::CancelledError("interrupted");
    if (waiting[0].revents == 0) continue;
    const ssize_t count = read(fd_, buffer, size);
    if (count >= 0) return static_cast<size_t>(count);
    if (errno != EINTR && errno != EAGAIN) return SystemError();
  }
}

bool FdInput::is_terminal() const { return isatty(fd_) == 1; }

}  // namespace quire::cli

#include "client/cli/interrupt.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <utility>

namespace quire::cli {
namespace {

// A handler has nothing but globals, and may touch no others than these kinds.
volatile sig_atomic_t g_signal = 0;
int g_signal_fds[2] = {-1, -1};

void OnSignal(int signal) {
  if (g_signal != 0) _exit(128 + signal);
  const int saved = errno;
  g_signal = signal;
  const char byte = 0;
  if (write(g_signal_fds[1], &byte, 1) < 0) _exit(128 + signal);
  errno = saved;
}

void Handle(int signal, void (*handler)(int)) {
  struct sigaction action = {};
  action.sa_handler = handler;
  action.sa_flags = SA_RESTART;
  sigemptyset(&action.sa_mask);
  sigaction(signal, &action, nullptr);
}

}  // namespace

Interrupt::Interrupt(std::shared_ptr<client::CancelToken> token)
    : token_(std::move(token)) {
  // Without pipes nothing can be woken: signals then end the process as they always did.
  if (pipe2(g_signal_fds, O_CLOEXEC) != 0 || pipe2(stop_fds_, O_CLOEXEC) != 0) return;
  watcher_ = std::thread([this] { Watch(); });
  Handle(SIGINT, OnSignal);
  Handle(SIGTERM, OnSignal);
}

Interrupt::~Interrupt() {
  if (!watcher_.joinable()) return;
  Handle(SIGINT, SIG_DFL);
  Handle(SIGTERM, SIG_DFL);
  close(stop_fds_[1]);  // wakes the watcher
  watcher_.join();
  close(stop_fds_[0]);
}

int Interrupt::fd() const { return g_signal_fds[0]; }

int Interrupt::exit_code() const { return g_signal == 0 ? 0 : 128 + g_signal; }

void Interrupt::Watch() {
  while (true) {
    pollfd waiting[] = {{g_signal_fds[0], POLLIN, 0}, {stop_fds_[0], POLLIN, 0}};
    if (poll(waiting, 2, -1) < 0 && errno != EINTR) return;
    if (waiting[1].revents != 0) return;
    if (waiting[0].revents == 0) continue;
    token_->Cancel();
    return;
  }
}

}  // namespace quire::cli

#include "tests/e2e/process.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include "absl/time/clock.h"

extern char** environ;

namespace quire::e2e {
namespace {

std::vector<char*> Pointers(std::vector<std::string>& strings) {
  std::vector<char*> pointers;
  for (std::string& string : strings) pointers.push_back(string.data());
  pointers.push_back(nullptr);
  return pointers;
}

// Names given twice: most programs take the first.
std::vector<std::string> FullEnvironment(std::vector<std::string> environment) {
  for (char** entry = environ; *entry != nullptr; ++entry) environment.push_back(*entry);
  return environment;
}

}  // namespace

bool WaitUntil(absl::FunctionRef<bool()> condition) {
  const absl::Time end = absl::Now() + absl::Seconds(kPatienceSeconds);
  while (!condition()) {
    if (absl::Now() > end) return false;
    absl::SleepFor(absl::Milliseconds(20));
  }
  return true;
}

Process::Process(const std::vector<std::string>& arguments,
                 const std::vector<std::string>& environment) {
  signal(SIGPIPE, SIG_IGN);
  int in[2], out[2], err[2];
  EXPECT_EQ(pipe2(in, O_CLOEXEC) | pipe2(out, O_CLOEXEC) | pipe2(err, O_CLOEXEC), 0);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, in[0], STDIN_FILENO);
  posix_spawn_file_actions_adddup2(&actions, out[1], STDOUT_FILENO);
  posix_spawn_file_actions_adddup2(&actions, err[1], STDERR_FILENO);
  std::vector<std::string> argument_list = arguments;
  std::vector<std::string> variables = FullEnvironment(environment);
  EXPECT_EQ(posix_spawn(&pid_, arguments[0].c_str(), &actions, nullptr,
                        Pointers(argument_list).data(), Pointers(variables).data()),
            0)
      << arguments[0];
  posix_spawn_file_actions_destroy(&actions);
  close(in[0]);
  close(out[1]);
  close(err[1]);
  in_ = in[1];
  out_.Start(out[0]);
  err_.Start(err[0]);
}

Process::~Process() {
  if (!exited()) {
    kill(pid_, SIGKILL);
    Wait();
  }
  if (in_ >= 0) close(in_);
}

void Process::Feed(const std::string& text) {
  size_t done = 0;
  while (done < text.size()) {
    const ssize_t count = write(in_, text.data() + done, text.size() - done);
    if (count <= 0) break;
    done += static_cast<size_t>(count);
  }
  close(in_);
  in_ = -1;
}

void Process::Signal(int signal) {
  if (!exited()) kill(pid_, signal);
}

std::string Process::out() const { return out_.text(); }

std::string Process::err() const { return err_.text(); }

bool Process::exited() {
  int status = 0;
  if (!exited_ && waitpid(pid_, &status, WNOHANG) == pid_) {
    exited_ = true;
    exit_code_ = WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
  }
  return exited_;
}

ProcessResult Process::Wait() {
  if (!WaitUntil([this] { return exited(); })) {
    ADD_FAILURE() << "process " << pid_ << " does not end; it wrote: " << err();
    kill(pid_, SIGKILL);
    WaitUntil([this] { return exited(); });
  }
  out_.Join();
  err_.Join();
  return {exit_code_, out(), err()};
}

Process::Collector::~Collector() { Join(); }

void Process::Collector::Start(int fd) {
  thread_ = std::thread([this, fd] {
    char buffer[4096];
    for (ssize_t count; (count = read(fd, buffer, sizeof(buffer))) > 0;) {
      std::lock_guard lock(mutex_);
      text_.append(buffer, static_cast<size_t>(count));
    }
    close(fd);
  });
}

std::string Process::Collector::text() const {
  std::lock_guard lock(mutex_);
  return text_;
}

void Process::Collector::Join() {
  if (thread_.joinable()) thread_.join();
}

}  // namespace quire::e2e

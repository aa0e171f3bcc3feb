// The real binary, for what only a process has: pipes, signals, a terminal.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <pty.h>
#include <signal.h>
#include <spawn.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <string>
#include <vector>

#include "absl/synchronization/notification.h"
#include "tests/client/fake_server.h"
#include "tests/support/temp_path.h"

namespace quire::cli {
namespace {

using client::testing::FakeServer;
using client::testing::HappyScript;
using client::testing::Script;
using ::testing::HasSubstr;
using ::testing::Not;

// A running `quire` with pipes for its three streams.
class Process {
 public:
  Process(const std::string& server, std::vector<std::string> arguments) {
    setenv("QUIRE_SERVER", server.c_str(), 1);
    int in[2], out[2], err[2];
    EXPECT_EQ(pipe2(in, O_CLOEXEC) | pipe2(out, O_CLOEXEC) | pipe2(err, O_CLOEXEC), 0);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, in[0], 0);
    posix_spawn_file_actions_adddup2(&actions, out[1], 1);
    posix_spawn_file_actions_adddup2(&actions, err[1], 2);
    arguments.insert(arguments.begin(), "quire");
    std::vector<char*> argv;
    for (std::string& argument : arguments) argv.push_back(argument.data());
    argv.push_back(nullptr);
    EXPECT_EQ(posix_spawn(&pid_, QUIRE_BINARY, &actions, nullptr, argv.data(), environ),
              0);
    posix_spawn_file_actions_destroy(&actions);
    close(in[0]);
    close(out[1]);
    close(err[1]);
    in_ = in[1];
    out_ = out[0];
    err_ = err[0];
  }
  ~Process() {
    CloseInput();
    CloseOutput();
    close(err_);
  }

  void Feed(const std::string& text) {
    EXPECT_EQ(write(in_, text.data(), text.size()), static_cast<ssize_t>(text.size()));
    CloseInput();
  }
  void Signal(int signal) { kill(pid_, signal); }
  std::string ReadOut() { return ReadAll(out_); }
  std::string ReadErr() { return ReadAll(err_); }
  std::string ReadSomeOut() {
    char buffer[4096];
    const ssize_t count = read(out_, buffer, sizeof(buffer));
    return std::string(buffer, count > 0 ? count : 0);
  }
  void CloseOutput() { CloseOnce(out_); }
  // Its exit code; 1000 + the signal that killed it.
  int Wait() {
    int status = 0;
    EXPECT_EQ(waitpid(pid_, &status, 0), pid_);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
  }

 private:
  static std::string ReadAll(int fd) {
    std::string text;
    char buffer[4096];
    for (ssize_t count; (count = read(fd, buffer, sizeof(buffer))) > 0;) {
      text.append(buffer, count);
    }
    return text;
  }
  static void CloseOnce(int& fd) {
    if (fd >= 0) close(fd);
    fd = -1;
  }
  void CloseInput() { CloseOnce(in_); }

  pid_t pid_ = -1;
  int in_ = -1, out_ = -1, err_ = -1;
};

// Sends one piece of text, then waits for the client to go.
Script Endless(absl::Notification& gone) {
  Script script;
  script.generate = [&gone](auto* context, const auto&, auto* writer) {
    v1::GenerateResponse event;
    event.mutable_text()->set_text("begun ");
    writer->Write(event);
    while (!context->IsCancelled()) absl::SleepFor(absl::Milliseconds(1));
    gone.Notify();
    return grpc::Status::CANCELLED;
  };
  return script;
}

TEST(ProcessTest, PlainTextInAPipe) {
  FakeServer server(HappyScript());
  Process quire(server.address(), {"summarize"});
  quire.Feed("A text.");
  EXPECT_EQ(quire.ReadOut(), "Three caf\xC3\xA9 words.\n");
  EXPECT_THAT(quire.ReadErr(), Not(HasSubstr("\x1b")));
  EXPECT_EQ(quire.Wait(), 0);
}

TEST(ProcessTest, ServerOfTheEnvironmentIsUsed) {
  Process quire("127.0.0.1:1", {"models"});
  EXPECT_EQ(quire.ReadOut(), "");
  EXPECT_THAT(quire.ReadErr(), HasSubstr("no service from 127.0.0.1:1"));
  EXPECT_EQ(quire.Wait(), 3);
}

TEST(ProcessTest, InterruptCancelsTheCall) {
  absl::Notification gone;
  FakeServer server(Endless(gone));
  Process quire(server.address(), {"generate", "x"});
  EXPECT_EQ(quire.ReadSomeOut(), "begun ");
  quire.Signal(SIGINT);
  EXPECT_TRUE(gone.WaitForNotificationWithTimeout(absl::Seconds(20)));
  EXPECT_EQ(quire.ReadOut(), "\n");
  EXPECT_EQ(quire.ReadErr(), "quire: interrupted\n");
  EXPECT_EQ(quire.Wait(), 130);
}

TEST(ProcessTest, TerminationIsExitCode143) {
  absl::Notification gone;
  FakeServer server(Endless(gone));
  Process quire(server.address(), {"generate", "x"});
  EXPECT_EQ(quire.ReadSomeOut(), "begun ");
  quire.Signal(SIGTERM);
  EXPECT_EQ(quire.Wait(), 143);
}

TEST(ProcessTest, InterruptWhileReadingStandardInput) {
  FakeServer server{Script()};
  Process quire(server.address(), {"summarize", "-", "--verbose"});
  // Nothing says that it reads by now; a signal before it has its handler is 1000 +
  // SIGINT.
  absl::SleepFor(absl::Milliseconds(300));
  quire.Signal(SIGINT);
  EXPECT_EQ(quire.Wait(), 130);
}

TEST(ProcessTest, ReaderThatLeavesEndsTheCallQuietly) {
  Script script;
  absl::Notification gone;
  script.generate = [&gone](auto* context, const auto&, auto* writer) {
    v1::GenerateResponse event;
    event.mutable_text()->set_text("more ");
    while (!context->IsCancelled()) writer->Write(event);
    gone.Notify();
    return grpc::Status::CANCELLED;
  };
  FakeServer server(script);
  Process quire(server.address(), {"generate", "x"});
  EXPECT_THAT(quire.ReadSomeOut(), HasSubstr("more "));
  quire.CloseOutput();
  EXPECT_TRUE(gone.WaitForNotificationWithTimeout(absl::Seconds(20)));
  EXPECT_EQ(quire.ReadErr(), "");
  EXPECT_EQ(quire.Wait(), 0);
}

TEST(ProcessTest, FullDiskIsToldOf) {
  FakeServer server(HappyScript());
  setenv("QUIRE_SERVER", server.address().c_str(), 1);
  EXPECT_EQ(WEXITSTATUS(std::system(QUIRE_BINARY " models > /dev/full 2> /dev/null")), 1);
}

TEST(ProcessTest, TerminalGetsProgressThenText) {
  FakeServer server(HappyScript());
  setenv("QUIRE_SERVER", server.address().c_str(), 1);
  setenv("LC_ALL", "C.UTF-8", 1);
  const std::string document = TempPath("document");
  std::ofstream(document) << "A text.";
  winsize size = {24, 60, 0, 0};
  int terminal = -1;
  const pid_t pid = forkpty(&terminal, nullptr, nullptr, &size);
  if (pid < 0) GTEST_SKIP() << "this machine gives no terminal: " << std::strerror(errno);
  if (pid == 0) {
    execl(QUIRE_BINARY, "quire", "ask", document.c_str(), "what?", nullptr);
    _exit(127);
  }
  std::string screen;
  char buffer[4096];
  for (ssize_t count; (count = read(terminal, buffer, sizeof(buffer))) > 0;) {
    screen.append(buffer, count);
  }
  close(terminal);
  unlink(document.c_str());
  int status = 0;
  waitpid(pid, &status, 0);
  EXPECT_EQ(WEXITSTATUS(status), 0);
  EXPECT_THAT(screen, HasSubstr("\r\x1b[KReading  \u2500"));
  EXPECT_THAT(screen,
              HasSubstr("\r\x1b[KThree caf\xC3\xA9 words.\r\n\r\nread 6,000 tokens"));
}

// The window's size is the terminal's, and Ctrl-C, which a terminal sends as a signal,
// gives the screen back.
TEST(ProcessTest, TopOnARealTerminal) {
  FakeServer server(HappyScript());
  setenv("QUIRE_SERVER", server.address().c_str(), 1);
  setenv("LC_ALL", "C.UTF-8", 1);
  setenv("NO_COLOR", "1", 1);
  winsize size = {.ws_row = 7, .ws_col = 40, .ws_xpixel = 0, .ws_ypixel = 0};
  int terminal = -1;
  const pid_t pid = forkpty(&terminal, nullptr, nullptr, &size);
  if (pid < 0) GTEST_SKIP() << "this machine gives no terminal: " << std::strerror(errno);
  if (pid == 0) {
    execl(QUIRE_BINARY, "quire", "top", "--interval", "100ms", nullptr);
    _exit(127);
  }
  std::string screen;
  char buffer[4096];
  const auto read_some = [&] {
    const ssize_t count = read(terminal, buffer, sizeof(buffer));
    if (count > 0) screen.append(buffer, count);
    return count > 0;
  };
  while (screen.find("more lines") == std::string::npos && read_some()) {
  }
  EXPECT_THAT(screen, HasSubstr("\x1b[?1049h\x1b[?25l\x1b[Hquire top   127.0.0.1:"));
  EXPECT_THAT(screen, HasSubstr("  requests  3 of 256 running   2 tenants\x1b[K\r"));
  EXPECT_THAT(screen, HasSubstr("... 5 more lines\x1b[K\x1b[J"));
  size.ws_row = 40;
  ioctl(terminal, TIOCSWINSZ, &size);
  while (screen.find("of attention's work") == std::string::npos && read_some()) {
  }
  EXPECT_EQ(write(terminal, "\x03", 1), 1);
  while (read_some()) {
  }
  close(terminal);
  int status = 0;
  waitpid(pid, &status, 0);
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 0);
  EXPECT_EQ(screen.substr(screen.size() - 14), "\x1b[?25h\x1b[?1049l");
  unsetenv("NO_COLOR");
}

}  // namespace
}  // namespace quire::cli

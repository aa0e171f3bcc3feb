#include <langinfo.h>
#include <unistd.h>

#include <clocale>
#include <csignal>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "client/cli/app.h"
#include "client/cli/exit_code.h"
#include "client/cli/fd_streams.h"
#include "client/cli/interrupt.h"

namespace {

// Only what the terminal shows follows the locale; numbers keep their points and commas.
bool TerminalShowsUnicode() {
  std::setlocale(LC_CTYPE, "");
  return std::strcmp(nl_langinfo(CODESET), "UTF-8") == 0;
}

}  // namespace

int main(int argc, char** argv) {
  std::signal(SIGPIPE, SIG_IGN);
  const auto cancel = std::make_shared<quire::client::CancelToken>();
  const quire::cli::Interrupt interrupt(cancel);
  quire::cli::FdInput in(STDIN_FILENO, interrupt.fd());
  quire::cli::FdOutput out(STDOUT_FILENO), err(STDERR_FILENO);
  quire::cli::Environment environment = {in,
                                         out,
                                         err,
                                         TerminalShowsUnicode(),
                                         cancel,
                                         absl::Now,
                                         quire::client::ClientHooks::Default()};
  const int code =
      quire::cli::Run(std::vector<std::string>(argv + 1, argv + argc), environment);
  return code == quire::cli::kExitInterrupted ? interrupt.exit_code() : code;
}

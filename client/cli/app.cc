#include "client/cli/app.h"

#include <variant>

#include "client/cli/commands.h"
#include "client/cli/exit_code.h"
#include "client/cli/flags.h"
#include "client/cli/json.h"
#include "client/cli/report.h"
#include "client/cli/screen.h"
#include "client/cli/session.h"

namespace quire::cli {
namespace {

// Remembers that standard output's reader has gone: then the program ends without a word,
// whatever the cancelled call says.
class WatchedOutput final : public Output {
 public:
  explicit WatchedOutput(Output& output) : output_(output) {}
  absl::Status Write(std::string_view bytes) override {
    absl::Status status = output_.Write(bytes);
    if (absl::IsCancelled(status)) reader_gone_ = true;
    return status;
  }
  bool is_terminal() const override { return output_.is_terminal(); }
  int columns() const override { return output_.columns(); }
  int rows() const override { return output_.rows(); }
  bool reader_gone() const { return reader_gone_; }

 private:
  Output& output_;
  bool reader_gone_ = false;
};

Verbosity VerbosityOf(const GlobalFlags& flags) {
  if (flags.quiet) return Verbosity::kQuiet;
  return flags.verbose ? Verbosity::kVerbose : Verbosity::kNormal;
}

absl::Status RunArguments(const Arguments& arguments, Environment& environment,
                          Screen& screen) {
  const absl::StatusOr<Session> session =
      Session::Create(environment, arguments.global, screen);
  if (!session.ok()) return session.status();
  return std::visit([&](const auto& flags) { return RunCommand(*session, flags); },
                    arguments.command);
}

int Conclude(const absl::Status& status, const GlobalFlags& flags, bool interrupted,
             Screen& screen) {
  if (status.ok()) return kExitOk;
  screen.EndLine().IgnoreError();
  if (flags.json && !screen.printed()) {
    screen.Print(Dump({{"error", ErrorToJson(status)}})).IgnoreError();
  }
  if (interrupted) {
    screen.Error("quire: interrupted");
    return kExitInterrupted;
  }
  ReportError(status, flags, screen);
  return ExitCodeOf(status);
}

}  // namespace

int Run(const std::vector<std::string>& arguments, Environment& environment) {
  const auto parsed = ParseArguments(arguments);
  if (const auto* reply = std::get_if<Reply>(&parsed)) {
    Output& output = reply->exit_code == kExitOk ? environment.out : environment.err;
    output.Write(reply->text).IgnoreError();
    return reply->exit_code;
  }
  const Arguments& known = std::get<Arguments>(parsed);
  WatchedOutput out(environment.out);
  Environment watched = {environment.in,     out,
                         environment.err,    environment.unicode,
                         environment.cancel, environment.now,
                         environment.hooks};
  Screen screen(watched, VerbosityOf(known.global));
  const absl::Status status = RunArguments(known, watched, screen);
  if (out.reader_gone()) return kExitOk;
  return Conclude(status, known.global, environment.cancel->cancelled(), screen);
}

}  // namespace quire::cli

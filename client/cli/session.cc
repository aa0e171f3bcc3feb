#include "client/cli/session.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "client/cli/document.h"
#include "client/cli/format.h"

namespace quire::cli {

absl::StatusOr<Session> Session::Create(Environment& environment,
                                        const GlobalFlags& flags, Screen& screen) {
  client::CallOptions call;
  call.request_id = flags.request_id;
  call.tenant = flags.tenant;
  call.cancel = environment.cancel;
  if (!flags.timeout.empty()) {
    const absl::StatusOr<absl::Duration> timeout = ParseTime("--timeout", flags.timeout);
    if (!timeout.ok()) return timeout.status();
    call.deadline = *timeout;
  }
  client::ClientOptions options;
  options.address = flags.server;
  client::ClientHooks hooks = environment.hooks;
  hooks.on_retry = [&screen](const absl::Status& error, absl::Duration wait) {
    screen.Detail(absl::StrCat("trying again in ", Seconds(absl::ToDoubleSeconds(wait)),
                               ": ", error.message()));
  };
  absl::StatusOr<client::Client> client =
      client::Client::Create(options, std::move(hooks));
  if (!client.ok()) return client.status();
  return Session(environment, flags, screen, *std::move(client), std::move(call));
}

Session::Session(Environment& environment, const GlobalFlags& flags, Screen& screen,
                 client::Client client, client::CallOptions call)
    : environment_(environment),
      flags_(flags),
      screen_(screen),
      client_(std::move(client)),
      call_(std::move(call)) {}

absl::StatusOr<std::string> Session::SourceOf(const std::string& path) const {
  if (!path.empty() && path != "-") return path;
  if (!environment_.in.is_terminal()) return std::string("-");
  if (path.empty()) {
    return absl::InvalidArgumentError("name a FILE, or - to read from the terminal");
  }
  screen_.Note(
      "reading from the terminal; end the text with Ctrl-D on a line of its own");
  return path;
}

absl::StatusOr<std::string> Session::ReadText(const std::string& path) const {
  const absl::StatusOr<std::string> source = SourceOf(path);
  if (!source.ok()) return source;
  return ReadDocument(*source, environment_.in);
}

absl::Status Session::PrintJson(Json json, const std::string& request_id) const {
  if (!request_id.empty()) json["request_id"] = request_id;
  return screen_.Print(Dump(json));
}

}  // namespace quire::cli

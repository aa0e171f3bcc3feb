#pragma once

#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/cli/console.h"
#include "client/cli/flags.h"
#include "client/cli/json.h"
#include "client/cli/screen.h"
#include "client/client.h"

namespace quire::cli {

// What one run of one command works with. One thread.
class Session {
 public:
  // kInvalidArgument names the flag. The flags and the environment outlive the session.
  static absl::StatusOr<Session> Create(Environment& environment,
                                        const GlobalFlags& flags, Screen& screen);

  const GlobalFlags& flags() const { return flags_; }
  const client::Client& client() const { return client_; }
  Screen& screen() const { return screen_; }
  Environment& environment() const { return environment_; }
  client::CallOptions NewCall() const { return call_; }

  // A text that a flag or argument named. Empty: standard input, unless that is a
  // terminal.
  absl::StatusOr<std::string> ReadText(const std::string& path) const;

  // The one object of --json; adds the request id if there is one.
  absl::Status PrintJson(Json json, const std::string& request_id) const;

 private:
  Session(Environment& environment, const GlobalFlags& flags, Screen& screen,
          client::Client client, client::CallOptions call);
  // What to read from, once it is clear; tells who sits at a terminal that it is read.
  absl::StatusOr<std::string> SourceOf(const std::string& path) const;

  Environment& environment_;
  const GlobalFlags& flags_;
  Screen& screen_;
  client::Client client_;
  client::CallOptions call_;
};

}  // namespace quire::cli

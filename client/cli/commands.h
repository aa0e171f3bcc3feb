#pragma once

#include "absl/status/status.h"
#include "client/cli/flags.h"
#include "client/cli/session.h"

namespace quire::cli {

// One command each: reads what it needs, makes the call, prints. Errors: the input's, the
// server's, or standard output's.
absl::Status RunCommand(const Session& session, const SummarizeFlags& flags);
absl::Status RunCommand(const Session& session, const GenerateFlags& flags);
absl::Status RunCommand(const Session& session, const ScoreFlags& flags);
absl::Status RunCommand(const Session& session, const TokensFlags& flags);
absl::Status RunCommand(const Session& session, const ModelsFlags& flags);
absl::Status RunCommand(const Session& session, const LoadFlags& flags);
absl::Status RunCommand(const Session& session, const CostFlags& flags);
absl::Status RunCommand(const Session& session, const TopFlags& flags);
absl::Status RunCommand(const Session& session, const CalibrateFlags& flags);

// A stream that ended well must have had its final event.
inline absl::Status MissingFinal() {
  return absl::InternalError("the server ended the call without its final event");
}

}  // namespace quire::cli

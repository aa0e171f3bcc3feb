#pragma once

#include "absl/status/status.h"

namespace quire::cli {

// What the process returns; documented in --help and docs/cli.md.
enum ExitCode : int {
  kExitOk = 0,
  kExitInternal = 1,
  kExitInvalid = 2,
  kExitUnavailable = 3,
  kExitRefused = 4,
  kExitDeadline = 5,
  kExitNotFound = 6,
  kExitInterrupted = 130,
};

ExitCode ExitCodeOf(const absl::Status& status);

}  // namespace quire::cli

#pragma once

#include "server/config.h"

namespace quire::server {

// How the process ends.
enum ExitCode {
  kExitStopped = 0,  // by a signal, after draining
  kExitUnexpected = 1,
  kExitOptions = 2,  // also: --check-config found them wrong
  kExitCannotListen = 3,
  kExitModel = 4,       // a model cannot be loaded
  kExitDeviceLost = 5,  // the GPU failed; its requests were told
};

// Serves until a signal. Opens the ports first, loads the models, writes the port file;
// the first SIGTERM or SIGINT drains, the second cancels what is in work. Returns an
// ExitCode. Once in a process, from the main thread, before any other thread is started.
int RunServer(const ServerOptions& options);

}  // namespace quire::server

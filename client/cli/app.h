#pragma once

#include <string>
#include <vector>

#include "client/cli/console.h"

namespace quire::cli {

// The whole program but for the process around it. Returns its exit code (exit_code.h).
int Run(const std::vector<std::string>& arguments, Environment& environment);

}  // namespace quire::cli

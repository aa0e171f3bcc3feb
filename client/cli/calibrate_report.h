#pragma once

#include <string>

#include "client/cli/calibrate_view.h"

namespace quire::cli {

// The result as a page of its own: no script, and nothing is fetched. REQUIRES: a
// summary.
std::string CalibrationReport(const CalibrationResult& result);

}  // namespace quire::cli

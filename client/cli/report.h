#pragma once

#include <string>

#include "absl/status/status.h"
#include "client/cli/flags.h"
#include "client/cli/screen.h"
#include "quire/v1/inference.pb.h"

namespace quire::cli {

// The line of figures after a call: tokens, times, rates.
std::string Figures(const v1::Usage& usage, const v1::Timings& timings);

// Why an answer ended, if it did not end by itself; else empty.
std::string CutNote(v1::FinishReason reason);

// What went wrong, in lines for a human, with what they may do about it.
void ReportError(const absl::Status& error, const GlobalFlags& flags, Screen& screen);

}  // namespace quire::cli

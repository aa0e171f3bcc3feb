#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "client/cli/flags.h"
#include "client/cli/screen.h"
#include "quire/v1/inference.pb.h"

namespace quire::cli {

// The line of figures after a call: tokens, times, rates.
std::string Figures(const v1::Usage& usage, const v1::Timings& timings);

// Why an answer ended, if it did not end by itself; else empty.
std::string CutNote(v1::FinishReason reason);

// The lines after an answer: why it was cut, if it was, its figures, and where it came
// from. Final: GenerateFinal or SummarizeFinal.
template <typename Final>
void NoteEnd(const Final& final, const std::string& request_id, Screen& screen) {
  if (const std::string cut = CutNote(final.finish_reason()); !cut.empty()) {
    screen.Note(cut);
  }
  screen.Note(Figures(final.usage(), final.timings()));
  screen.Detail(absl::StrCat("model ", final.model(), ", seed ", final.seed(),
                             ", request id ", request_id));
}

// What went wrong, in lines for a human, with what they may do about it.
void ReportError(const absl::Status& error, const GlobalFlags& flags, Screen& screen);

}  // namespace quire::cli

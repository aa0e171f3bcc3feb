#pragma once

#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "client/cli/flags.h"
#include "client/cli/screen.h"
#include "quire/v1/inference.pb.h"

namespace quire::cli {

// The line of figures after a call: tokens, times, rates.
std::string Figures(const v1::Usage& usage, const v1::Timings& timings);

// What attention took and how it erred, in a line or two without the last newline; empty:
// there is nothing to say.
std::string ReceiptLines(const v1::Receipt& receipt);

// Prints them; whether a short text was read densely under AUTO is a detail.
void NoteReceipt(const v1::Receipt& receipt, Screen& screen);

// The beginning of a span of a text, on one line; whole characters.
std::string Quote(std::string_view text, const v1::ByteSpan& span);

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
  NoteReceipt(final.receipt(), screen);
  screen.Detail(absl::StrCat("model ", final.model(), ", seed ", final.seed(),
                             ", request id ", request_id));
}

// What went wrong, in lines for a human, with what they may do about it.
void ReportError(const absl::Status& error, const GlobalFlags& flags, Screen& screen);

}  // namespace quire::cli

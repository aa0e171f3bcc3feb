#include "client/cli/screen.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "client/cli/utf8.h"

namespace quire::cli {
namespace {

constexpr std::string_view kEraseLine = "\r\x1b[K";

}  // namespace

Screen::Screen(Environment& environment, Verbosity verbosity)
    : environment_(environment),
      verbosity_(verbosity),
      out_is_terminal_(environment.out.is_terminal()),
      err_is_terminal_(environment.err.is_terminal()) {}

Screen::~Screen() { Erase(); }

void Screen::Progress(const v1::Progress& progress) {
  if (!err_is_terminal_ || verbosity_ == Verbosity::kQuiet) return;
  // Both are most often the same terminal: the line would land behind the text.
  if (out_is_terminal_ && line_open_) return;
  if (!meter_.Update(progress, environment_.now())) return;
  const std::string line =
      RenderProgress(progress, meter_.tokens_per_second(), environment_.err.columns(),
                     environment_.unicode);
  environment_.err.Write(absl::StrCat(std::string(kEraseLine), line)).IgnoreError();
  drawn_ = true;
}

void Screen::ProgressWithEta(v1::Progress progress) {
  const auto rate = meter_.tokens_per_second();
  const int64_t left = progress.total_tokens() - progress.done_tokens();
  if (rate && *rate > 0) progress.set_eta_seconds(static_cast<double>(left) / *rate);
  Progress(progress);
}

absl::Status Screen::Print(std::string_view text) {
  if (text.empty()) return absl::OkStatus();
  Erase();
  printed_ = true;
  line_open_ = text.back() != '\n';
  const absl::Status status =
      environment_.out.Write(out_is_terminal_ ? Neutralise(text) : std::string(text));
  if (status.ok() || absl::IsCancelled(status)) return status;
  return absl::UnknownError(absl::StrCat("cannot write the output: ", status.message()));
}

absl::Status Screen::PrintProse(std::string_view text) {
  if (!out_is_terminal_) return Print(text);
  if (!wrap_) wrap_.emplace(environment_.out.columns());
  return Print(wrap_->Add(text));
}

absl::Status Screen::EndLine() {
  if (wrap_) {
    const std::string held = wrap_->Flush();
    wrap_.reset();
    if (absl::Status status = Print(held); !status.ok()) return status;
  }
  return line_open_ ? Print("\n") : absl::OkStatus();
}

void Screen::Note(std::string_view line) {
  if (verbosity_ != Verbosity::kQuiet) WriteLine(line);
}

void Screen::Gap() {
  if (out_is_terminal_ && err_is_terminal_) Note("");
}

void Screen::Detail(std::string_view line) {
  if (verbosity_ == Verbosity::kVerbose) WriteLine(line);
}

void Screen::Error(std::string_view line) { WriteLine(line); }

void Screen::Erase() {
  if (drawn_) environment_.err.Write(kEraseLine).IgnoreError();
  drawn_ = false;
}

// There is nobody to tell that stderr cannot be written.
void Screen::WriteLine(std::string_view line) {
  Erase();
  const std::string shown = err_is_terminal_ ? Neutralise(line) : std::string(line);
  environment_.err.Write(absl::StrCat(shown, "\n")).IgnoreError();
}

}  // namespace quire::cli

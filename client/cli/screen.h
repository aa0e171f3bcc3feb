#pragma once

#include <optional>
#include <string_view>

#include "absl/status/status.h"
#include "client/cli/console.h"
#include "client/cli/progress_bar.h"
#include "client/cli/word_wrap.h"

namespace quire::cli {

enum class Verbosity { kQuiet, kNormal, kVerbose };

// What the user sees: results on stdout, everything else on stderr. The progress line is
// drawn only on a terminal, and is gone before anything else is written. One thread.
class Screen {
 public:
  Screen(Environment& environment, Verbosity verbosity);
  ~Screen();

  void Progress(const v1::Progress& progress);
  // The same with the time left by the rate so far, for work that only the client sees
  // whole.
  void ProgressWithEta(v1::Progress progress);
  // Results; control characters are made visible if stdout is a terminal. The errors are
  // Output::Write's.
  absl::Status Print(std::string_view text);
  // The same for streamed prose: on a terminal, lines are broken between words.
  absl::Status PrintProse(std::string_view text);
  // Shows what prose still holds back, and ends the line if it is open.
  absl::Status EndLine();
  // A line for humans, unless quiet.
  void Note(std::string_view line);
  // A line that sets the notes after a text apart from it, where both are on one
  // terminal.
  void Gap();
  // A line that only --verbose shows.
  void Detail(std::string_view line);
  // A line whatever the verbosity.
  void Error(std::string_view line);
  // Whether anything was printed as a result.
  bool printed() const { return printed_; }

 private:
  void Erase();
  void WriteLine(std::string_view line);

  Environment& environment_;
  const Verbosity verbosity_;
  const bool out_is_terminal_;
  const bool err_is_terminal_;
  ProgressMeter meter_;
  std::optional<WordWrap> wrap_;  // of prose that has begun
  bool drawn_ = false;
  bool printed_ = false;
  bool line_open_ = false;  // stdout's last byte was not a newline
};

}  // namespace quire::cli

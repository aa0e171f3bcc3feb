#pragma once

#include <deque>
#include <string>
#include <vector>

#include "quire/v1/models.pb.h"

namespace quire::cli {

// A model and what the server last told of it.
struct TopModel {
  v1::Model model;
  v1::Load load;
  std::deque<double> rates;  // tokens a second, read and written, oldest first
};

// What `quire top` knows.
struct TopState {
  std::string server;
  std::vector<TopModel> models;  // the default first
  // Why the last look failed, and how old what is shown is; empty: it did not.
  std::string trouble;
  double stale_seconds = 0;
};

// What it is shown on.
struct TopLook {
  int columns = 80;
  int rows = 0;  // 0: as many as it takes
  bool unicode = false;
  bool colour = false;
};

// Rates that are kept of a model: as many as a wide terminal shows.
inline constexpr size_t kTopRates = 240;

// The screen, line by line, without line ends. No line is wider than the terminal, and
// there are no more than its rows: what matters less is left out first. Many models get a
// line each. Names are made safe for a terminal.
std::vector<std::string> RenderTop(const TopState& state, const TopLook& look);

// The rates as a row of bars of at most `width` columns, the last one at the right, the
// highest as high as a line.
std::string Sparkline(const std::deque<double>& rates, int width, bool unicode);

}  // namespace quire::cli

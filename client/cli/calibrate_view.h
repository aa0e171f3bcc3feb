#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "client/cli/calibrate_documents.h"
#include "client/cli/calibrate_run.h"
#include "client/cli/calibrate_stats.h"
#include "client/cli/json.h"

namespace quire::cli {

// All that a calibration came to.
struct CalibrationResult {
  std::string folder;
  std::string model;  // in words
  v1::AttentionMode mode = v1::ATTENTION_MODE_AUTO;
  int32_t min_sparse_tokens = 0;
  Wanted wanted;
  Bootstrap bootstrap;
  std::vector<CalibrationDocument> documents;  // that are compared
  std::vector<CalibrationDocument> too_short;  // read densely whatever eps is
  std::vector<SkippedFile> skipped;
  int64_t others = 0;
  int64_t not_drawn = 0;
  std::vector<EpsSummary> summaries;               // ascending in eps
  std::vector<std::vector<Measurement>> readings;  // of each eps, by document
  Recommendation recommendation;
};

// "at least 0.99 agreement", as the user asked for it.
std::string WantedWords(const Wanted& wanted);

// A line for each eps.
std::string EpsTable(const CalibrationResult& result);

// Cost against drift, drawn in characters: across what attention takes of dense
// attention's work, upwards the share of tokens that differ. Empty if the terminal is too
// narrow.
std::string Plot(const CalibrationResult& result, int columns);

// What is recommended and how sure that is, in a few lines.
std::string Advice(const CalibrationResult& result);

// What the server's --config takes.
std::string ConfigFragment(const CalibrationResult& result);

Json ToJson(const CalibrationResult& result);

// "0.04", as short as it can be.
std::string EpsText(double eps);

}  // namespace quire::cli

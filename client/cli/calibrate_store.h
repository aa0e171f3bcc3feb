#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/cli/calibrate_stats.h"

namespace quire::cli {

// What results depend on beside the text and eps. Results of others are left alone.
struct CalibrationSetup {
  std::string model;    // name, size, number type: dense results depend on no more
  std::string reading;  // mode and min_sparse_tokens
};

// A document read densely.
struct DenseRun {
  std::vector<float> logprobs;  // of every token; NaN: it has none
  std::vector<int32_t> top;     // most probable token there
  double macs = 0;
  double columns = 0;
  double seconds = 0;
};

// The folder that a calibration writes to. What was measured is on disk before the next
// measurement begins, so that whatever ends the program costs one measurement:
//   state.jsonl        a line a measurement, only ever appended to
//   dense/KEY-*.bin    a document's dense scores
// One thread; one process at a time, which a lock sees to.
class CalibrationStore {
 public:
  // Makes the folder if need be and reads what is there. fresh: forgets it instead.
  // kInvalidArgument: the folder cannot be made, read or written; kFailedPrecondition:
  // another process works in it.
  static absl::StatusOr<std::unique_ptr<CalibrationStore>> Open(
      const std::string& folder, const CalibrationSetup& setup, bool fresh);
  ~CalibrationStore();
  CalibrationStore(const CalibrationStore&) = delete;
  CalibrationStore& operator=(const CalibrationStore&) = delete;

  // Null: not measured yet. Valid until the next Add.
  const Measurement* Find(const std::string& document, double eps) const;
  // kUnknown: the system's reason, such as a full disk.
  absl::Status Add(const Measurement& measurement);

  // nullopt: there is none, or the file is damaged or of another model.
  std::optional<DenseRun> FindDense(const std::string& document) const;
  absl::Status AddDense(const std::string& document, const DenseRun& run);

  // Writes a file of the folder so that it is either the old one or the new one.
  absl::Status WriteFile(const std::string& name, std::string_view contents) const;

  // Measurements of another model or other options, and lines that are no measurements
  // (an interrupted run may leave half of one).
  int64_t of_other_setups() const { return of_other_setups_; }
  int64_t damaged_lines() const { return damaged_lines_; }
  const std::string& folder() const { return folder_; }

 private:
  CalibrationStore(std::string folder, CalibrationSetup setup)
      : folder_(std::move(folder)), setup_(std::move(setup)) {}
  absl::Status OpenState(bool fresh);
  absl::Status ReadState();
  void ReadLine(std::string_view line);
  std::string DensePath(const std::string& document) const;

  const std::string folder_;
  const CalibrationSetup setup_;
  int state_fd_ = -1;
  absl::flat_hash_map<std::pair<std::string, double>, Measurement> measurements_;
  int64_t of_other_setups_ = 0;
  int64_t damaged_lines_ = 0;
};

}  // namespace quire::cli

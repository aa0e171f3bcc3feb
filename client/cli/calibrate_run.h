#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/cli/calibrate_documents.h"
#include "client/cli/calibrate_stats.h"
#include "client/cli/calibrate_store.h"
#include "client/cli/session.h"
#include "quire/v1/attention.pb.h"

namespace quire::cli {

// A document that is measured.
struct CalibrationDocument {
  DocumentFile file;
  int64_t tokens = 0;
};

// Reads documents through the service, densely and at an eps, and keeps what came out.
// One thread.
class Calibrator {
 public:
  struct Options {
    std::string folder;
    v1::AttentionMode mode = v1::ATTENTION_MODE_AUTO;
    int32_t min_sparse_tokens = 0;  // at least 1
    int32_t priority = 0;
  };

  // All outlive this.
  Calibrator(const Session& session, const Options& options, CalibrationStore& store)
      : session_(session), options_(options), store_(store) {}

  // Tokens of a document to the model.
  absl::StatusOr<int64_t> CountTokens(const DocumentFile& file) const;

  // Measures every document at every eps, as far as that is not done yet, document by
  // document; the progress line shows all of it together. kFailedPrecondition: the server
  // does not read as it is asked to; else the call's errors. A server that goes away is
  // waited for a minute.
  absl::Status Measure(const std::vector<CalibrationDocument>& documents,
                       const std::vector<double>& grid);

  // How many readings were made, and how many were there already.
  int64_t made() const { return made_; }
  int64_t found() const { return found_; }

 private:
  struct Reading {  // what one Score call told
    std::vector<float> logprobs;
    std::vector<int32_t> top;
    v1::ScoreFinal final;
  };
  absl::Status MeasureDocument(const CalibrationDocument& document,
                               const std::vector<double>& missing);
  absl::StatusOr<DenseRun> Dense(const CalibrationDocument& document,
                                 const std::string& text);
  absl::StatusOr<Reading> Read(const CalibrationDocument& document,
                               const std::string& text,
                               const v1::AttentionOptions& attention);
  absl::Status ReadOnce(const CalibrationDocument& document,
                        const v1::ScoreRequest& request, Reading& reading);
  absl::Status Receive(const v1::ScoreResponse& event, Reading& reading) const;
  void ShowProgress(int64_t tokens_of_reading) const;
  absl::Status CheckReceipt(const v1::Receipt& receipt, v1::AttentionMode mode) const;

  const Session& session_;
  const Options& options_;
  CalibrationStore& store_;
  int64_t made_ = 0;
  int64_t found_ = 0;
  int64_t done_tokens_ = 0;   // of the readings of this Measure that are over
  int64_t total_tokens_ = 0;  // of all of them
};

// Sparse against dense over the tokens from `first` on. REQUIRES: equal lengths.
void Compare(const DenseRun& dense, const std::vector<float>& logprobs,
             const std::vector<int32_t>& top, int64_t first, Measurement& measurement);

}  // namespace quire::cli

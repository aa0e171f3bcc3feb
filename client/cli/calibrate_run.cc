#include "client/cli/calibrate_run.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/cli/format.h"

namespace quire::cli {
namespace {

// A server that restarts has this long.
constexpr int kTries = 7;
constexpr absl::Duration kFirstPause = absl::Seconds(1);

double Macs(const v1::AttentionWork& work) {
  return static_cast<double>(work.attention_macs()) +
         static_cast<double>(work.selection_macs()) +
         static_cast<double>(work.statistics_macs()) +
         static_cast<double>(work.audit_macs());
}

void SetWork(const v1::Receipt& receipt, Measurement& m) {
  for (const v1::AttentionWork* work : {&receipt.prefill(), &receipt.decode()}) {
    m.macs += Macs(*work);
    m.dense_macs += static_cast<double>(work->dense_macs());
    m.columns += static_cast<double>(work->columns());
    m.dense_columns += static_cast<double>(work->dense_columns());
  }
  m.sparse = receipt.has_coverage();
  m.audited_tokens = receipt.audited_tokens();
  m.audited_error = receipt.audited_error();
  m.max_audited_error = receipt.max_audited_error();
}

}  // namespace

void Compare(const DenseRun& dense, const std::vector<float>& logprobs,
             const std::vector<int32_t>& top, int64_t first, Measurement& measurement) {
  for (auto i = static_cast<size_t>(std::max<int64_t>(first, 0)); i < logprobs.size();
       ++i) {
    if (!std::isfinite(dense.logprobs[i]) || !std::isfinite(logprobs[i])) continue;
    ++measurement.tokens;
    measurement.agreed += top[i] == dense.top[i] ? 1 : 0;
    measurement.logprob += logprobs[i];
    measurement.dense_logprob += dense.logprobs[i];
    measurement.abs_delta += std::abs(double{logprobs[i]} - double{dense.logprobs[i]});
  }
}

absl::StatusOr<int64_t> Calibrator::CountTokens(const DocumentFile& file) const {
  absl::StatusOr<std::string> text = ReadAgain(options_.folder, file);
  if (!text.ok()) return text.status();
  v1::CountTokensRequest request;
  request.set_model(session_.flags().model);
  request.mutable_input()->set_text(*std::move(text));
  const auto count = session_.client().CountTokens(request, session_.NewCall());
  if (!count.ok()) return count.status();
  return count->tokens();
}

absl::Status Calibrator::Measure(const std::vector<CalibrationDocument>& documents,
                                 const std::vector<double>& grid) {
  std::vector<std::vector<double>> missing(documents.size());
  done_tokens_ = total_tokens_ = 0;
  for (size_t i = 0; i < documents.size(); ++i) {
    const std::string& key = documents[i].file.key;
    for (const double eps : grid) {
      if (store_.Find(key, eps) == nullptr) missing[i].push_back(eps);
    }
    found_ += static_cast<int64_t>(grid.size() - missing[i].size());
    if (missing[i].empty()) continue;
    const int64_t dense = store_.FindDense(key) ? 0 : 1;
    total_tokens_ +=
        documents[i].tokens * (dense + static_cast<int64_t>(missing[i].size()));
  }
  for (size_t i = 0; i < documents.size(); ++i) {
    if (missing[i].empty()) continue;
    const absl::Status status = MeasureDocument(documents[i], missing[i]);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status Calibrator::MeasureDocument(const CalibrationDocument& document,
                                         const std::vector<double>& missing) {
  const absl::StatusOr<std::string> text = ReadAgain(options_.folder, document.file);
  if (!text.ok()) return text.status();
  const absl::StatusOr<DenseRun> dense = Dense(document, *text);
  if (!dense.ok()) return dense.status();
  for (const double eps : missing) {
    v1::AttentionOptions attention;
    attention.set_mode(options_.mode);
    attention.set_eps(static_cast<float>(eps));
    // What was measured must be this eps to the end.
    attention.set_max_error(1);
    attention.set_min_sparse_tokens(options_.min_sparse_tokens);
    const absl::StatusOr<Reading> reading = Read(document, *text, attention);
    if (!reading.ok()) return reading.status();
    if (reading->logprobs.size() != dense->logprobs.size()) {
      return absl::FailedPreconditionError(
          absl::StrCat("\"", document.file.path, "\" had ", dense->logprobs.size(),
                       " tokens and now has ", reading->logprobs.size(),
                       "; the server's model was changed: run again with --fresh"));
    }
    Measurement m{.document = document.file.key, .eps = eps};
    Compare(*dense, reading->logprobs, reading->top, options_.min_sparse_tokens, m);
    SetWork(reading->final.receipt(), m);
    m.seconds = reading->final.timings().prefill_seconds();
    m.dense_seconds = dense->seconds;
    if (absl::Status status = store_.Add(m); !status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::StatusOr<DenseRun> Calibrator::Dense(const CalibrationDocument& document,
                                           const std::string& text) {
  if (auto kept = store_.FindDense(document.file.key)) return *std::move(kept);
  v1::AttentionOptions attention;
  attention.set_mode(v1::ATTENTION_MODE_DENSE);
  absl::StatusOr<Reading> reading = Read(document, text, attention);
  if (!reading.ok()) return reading.status();
  const v1::AttentionWork& work = reading->final.receipt().prefill();
  const DenseRun run = {.logprobs = std::move(reading->logprobs),
                        .top = std::move(reading->top),
                        .macs = Macs(work),
                        .columns = static_cast<double>(work.columns()),
                        .seconds = reading->final.timings().prefill_seconds()};
  if (absl::Status status = store_.AddDense(document.file.key, run); !status.ok()) {
    return status;
  }
  return run;
}

absl::StatusOr<Calibrator::Reading> Calibrator::Read(
    const CalibrationDocument& document, const std::string& text,
    const v1::AttentionOptions& attention) {
  v1::ScoreRequest request;
  request.mutable_input()->set_text(text);
  request.mutable_options()->set_model(session_.flags().model);
  request.mutable_options()->set_top_logprobs(1);
  request.mutable_options()->set_priority(options_.priority);
  *request.mutable_options()->mutable_attention() = attention;
  absl::Duration pause = kFirstPause;
  Reading reading;
  for (int tried = 1;; ++tried) {
    const absl::Status status = ReadOnce(document, request, reading);
    if (status.ok()) break;
    Environment& environment = session_.environment();
    if (!absl::IsUnavailable(status) || tried == kTries) return status;
    session_.screen().Detail(absl::StrCat("trying again in ",
                                          Seconds(absl::ToDoubleSeconds(pause)), ": ",
                                          status.message()));
    environment.hooks.sleep(pause, *environment.cancel);
    if (environment.cancel->cancelled()) return absl::CancelledError("interrupted");
    pause *= 2;
  }
  if (absl::Status status = CheckReceipt(reading.final.receipt(), attention.mode());
      !status.ok()) {
    return status;
  }
  done_tokens_ += document.tokens;
  ++made_;
  return reading;
}

absl::Status Calibrator::ReadOnce(const CalibrationDocument& document,
                                  const v1::ScoreRequest& request, Reading& reading) {
  reading = {};
  bool ended = false;
  int64_t pass_began = 0;  // scores that were there when the pass began
  auto stream = session_.client().Score(request, session_.NewCall());
  const absl::Status status = stream.ForEach([&](const v1::ScoreResponse& event) {
    const auto scored = static_cast<int64_t>(reading.logprobs.size());
    if (event.has_progress()) {
      if (event.progress().done_tokens() == 0) pass_began = scored;
      ShowProgress(std::min(std::max(scored, pass_began + event.progress().done_tokens()),
                            document.tokens));
    }
    ended = ended || event.has_final();
    return Receive(event, reading);
  });
  if (!status.ok()) return status;
  return ended ? absl::OkStatus()
               : absl::InternalError("the server ended the call without its final event");
}

absl::Status Calibrator::Receive(const v1::ScoreResponse& event, Reading& reading) const {
  if (event.has_final()) reading.final = event.final();
  if (!event.has_scores()) return absl::OkStatus();
  auto top = event.scores().top().begin();
  for (const float logprob : event.scores().logprobs()) {
    reading.logprobs.push_back(logprob);
    // A token without logprob has no alternatives either.
    if (std::isnan(logprob)) {
      reading.top.push_back(-1);
    } else if (top == event.scores().top().end()) {
      return absl::InternalError("the server sent fewer top tokens than logprobs");
    } else {
      reading.top.push_back((top++)->token_id());
    }
  }
  return absl::OkStatus();
}

void Calibrator::ShowProgress(int64_t tokens_of_reading) const {
  v1::Progress progress;
  progress.set_phase(v1::PHASE_PREFILL);
  progress.set_done_tokens(done_tokens_ + tokens_of_reading);
  progress.set_total_tokens(total_tokens_);
  session_.screen().ProgressWithEta(progress);
}

absl::Status Calibrator::CheckReceipt(const v1::Receipt& receipt,
                                      v1::AttentionMode mode) const {
  if (receipt.mode() == mode) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("the server read with attention mode ", Name(receipt.mode()),
                   " where it was asked for ", Name(mode), "; it cannot be calibrated"));
}

}  // namespace quire::cli

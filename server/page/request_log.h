#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "core/dga/attention_stats.h"
#include "core/engine/request.h"
#include "server/method.h"
#include "server/observability/savings_report.h"
#include "server/page/progress_trace.h"

namespace quire::server {

// Device time of a call's requests beside dense attention's, of one basis.
struct SavedTime {
  int64_t requests = 0;
  absl::Duration own;
  absl::Duration dense;
  double usd = 0;
};

// What came of computing a call's requests again densely.
struct ShadowSum {
  int64_t requests = 0;
  absl::Duration own;
  absl::Duration dense;
  int64_t compared_tokens = 0;
  double logprob_abs_delta = 0;  // mean over the compared tokens
  int64_t top1_mismatches = 0;
};

// A call that is over: numbers and names of our own, nothing that a user wrote but the
// request's id.
struct RequestRecord {
  int64_t number = 0;  // 1, 2, ... in the order of their ends
  std::string id;
  Method method = Method::kGenerate;
  std::string model;  // "": none was found
  absl::StatusCode code = absl::StatusCode::kOk;
  std::string reason;  // of the refusal, as in ErrorInfo; "": none
  absl::Time arrival;
  absl::Duration elapsed;
  std::optional<absl::Duration> time_to_first_token;
  Usage usage;
  Timings timings;
  AttentionReceipt attention;  // all zero if the call got nowhere
  DeviceTime device;
  ProgressTrace trace;
  int32_t layers = 0;
  std::vector<int64_t> head_columns;  // [layers * heads], see Finished; may be empty
  std::array<SavedTime, 2> saved;     // by SavingsBasis
  std::optional<ShadowSum> shadow;
  int64_t version = 0;  // of the log, when this changed last
};

// The last calls that are over, and what is learned of them later. Calls that were
// refused have places of their own, so that overload does not drive the answered ones
// out. Thread-safe; bounded: kMaxAnswered and kMaxRefused records of at most kMaxHeads
// heads.
class RequestLog final : public SavingsObserver {
 public:
  static constexpr size_t kMaxAnswered = 160;
  static constexpr size_t kMaxRefused = 40;
  static constexpr size_t kMaxHeads = 1 << 14;

  // Gives the record its number. What was saved by requests of this id that were not yet
  // in the log, is the record's.
  void Add(RequestRecord record);

  // Of the newest record with this id; kept for one that comes, if there is none or it
  // has as many as it made requests to the engine.
  void OnSavings(const SavingsReport& report) override;
  void OnShadow(const ShadowResult& result) override;
  void OnShadowSkipped(ShadowSkip /*reason*/) override {}

  // Grows with every change.
  int64_t version() const;
  // Those that changed after `version`, the newest first, at most `limit`.
  std::vector<RequestRecord> Changed(int64_t version, size_t limit) const;
  // The newest of this id, or of this number.
  std::optional<RequestRecord> Find(absl::string_view id) const;
  std::optional<RequestRecord> FindNumber(int64_t number) const;

 private:
  // What came before its call's end.
  struct Early {
    std::string id;
    std::array<SavedTime, 2> saved;
    std::optional<ShadowSum> shadow;
  };
  static constexpr size_t kMaxEarly = 512;

  RequestRecord* Newest(absl::string_view id);
  Early& EarlyOf(const std::string& id);
  void TakeEarly(RequestRecord& record);

  mutable std::mutex mutex_;  // guards all below
  int64_t last_number_ = 0;
  int64_t version_ = 0;
  std::deque<RequestRecord> answered_;  // the oldest first
  std::deque<RequestRecord> refused_;
  std::deque<Early> early_;
};

}  // namespace quire::server

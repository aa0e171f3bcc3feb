#pragma once

#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/engine/request.h"

namespace quire {

// What one sink was told, in order. Thread-safe.
class SinkRecord {
 public:
  void Add(std::string event) {
    std::lock_guard lock(mutex_);
    if (finished_) event += " after the end";
    events_.push_back(std::move(event));
  }
  void Finish(const Finished& finished) {
    std::lock_guard lock(mutex_);
    if (finished_) events_.push_back("finished again");
    finished_ = finished;
    changed_.notify_all();
  }
  void SinkDestroyed() {
    std::lock_guard lock(mutex_);
    sink_destroyed_ = true;
  }

  Finished Wait() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return finished_.has_value(); });
    return *finished_;
  }
  bool finished() const {
    std::lock_guard lock(mutex_);
    return finished_.has_value();
  }
  bool sink_destroyed() const {
    std::lock_guard lock(mutex_);
    return sink_destroyed_;
  }
  std::vector<std::string> events() const {
    std::lock_guard lock(mutex_);
    return events_;
  }

 private:
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::string> events_;
  std::optional<Finished> finished_;
  bool sink_destroyed_ = false;
};

class RecordingSink final : public RequestSink {
 public:
  explicit RecordingSink(std::shared_ptr<SinkRecord> record)
      : record_(std::move(record)) {}
  ~RecordingSink() override { record_->SinkDestroyed(); }

  void OnProgress(int64_t done_tokens, int64_t total_tokens) override {
    record_->Add(absl::StrCat("progress ", done_tokens, "/", total_tokens));
  }
  void OnToken(const TokenScore& token) override {
    record_->Add(absl::StrCat("token ", token.token));
  }
  void OnScores(std::vector<TokenScore> scores) override {
    std::string event = "scores";
    for (const TokenScore& score : scores) absl::StrAppend(&event, " ", score.token);
    record_->Add(std::move(event));
  }
  void OnImportance(std::vector<float> importance) override {
    std::string event = "importance";
    for (const float x : importance) absl::StrAppend(&event, " ", x);
    record_->Add(std::move(event));
  }
  void OnFinished(const Finished& finished) override { record_->Finish(finished); }

 private:
  const std::shared_ptr<SinkRecord> record_;
};

}  // namespace quire

#include "server/rpc/batch_inbox.h"

#include <algorithm>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "server/rpc/status.h"

namespace quire::server {
namespace {

constexpr size_t kMaxIdBytes = 128;
// Whole texts that may wait while one is scored.
constexpr size_t kMaxTexts = 16;
constexpr int64_t kMaxWaitingBytes = 8 << 20;

int64_t SizeOf(const v1::Input& input) {
  return static_cast<int64_t>(input.text().size()) +
         static_cast<int64_t>(sizeof(int32_t)) * input.token_ids().ids_size();
}

}  // namespace

absl::StatusOr<bool> BatchInbox::Push(v1::ScoreBatchRequest message) {
  if (message.id().empty() || message.id().size() > kMaxIdBytes) {
    return InvalidField("id", absl::StrCat("id has ", message.id().size(),
                                           " bytes; it must have 1 to ", kMaxIdBytes));
  }
  std::lock_guard lock(mutex_);
  ++messages_;
  changed_.notify_all();
  if (open_.has_value() && open_->id != message.id()) {
    FailOpen(InvalidField(
        "more", absl::StrCat("more was true for id ", Quoted(open_->id),
                             "; the next message must go on with it, and has id ",
                             Quoted(message.id()))));
    FinishOpen();
  }
  if (!open_.has_value()) {
    Begin(message);
  } else if (message.has_options()) {
    FailOpen(InvalidField("options",
                          "options is set on a later piece; it must be on the first"));
  }
  if (open_->status.ok()) {
    if (absl::Status status = AddPiece(message); !status.ok())
      FailOpen(std::move(status));
  }
  if (!message.more()) FinishOpen();
  reading_ = !Full();
  return reading_;
}

void BatchInbox::Begin(v1::ScoreBatchRequest& message) {
  open_ = BatchText{.id = message.id()};
  open_->options.Swap(message.mutable_options());
  const auto same = [&](const BatchText& text) { return text.id == message.id(); };
  if (in_work_ == message.id() || std::any_of(texts_.begin(), texts_.end(), same)) {
    FailOpen(
        InvalidField("id", absl::StrCat("id is ", Quoted(message.id()),
                                        "; it must not be one that is still in work")));
  }
}

absl::Status BatchInbox::AddPiece(v1::ScoreBatchRequest& message) {
  v1::Input& input = open_->input;
  const bool first = input.source_case() == v1::Input::SOURCE_NOT_SET;
  if (message.has_text() && (first || input.has_text())) {
    input.mutable_text()->append(message.text());
  } else if (message.has_token_ids() && (first || input.has_token_ids())) {
    input.mutable_token_ids()->MergeFrom(message.token_ids());
  } else {
    return InvalidField("source",
                        first ? "source is not set; it must hold text or token_ids"
                              : "source is not of the kind of the text's first piece");
  }
  if (SizeOf(input) <= max_text_bytes_) return absl::OkStatus();
  return InvalidField(
      "text", absl::StrCat("text has ", SizeOf(input),
                           " bytes so far; it must have at most ", max_text_bytes_));
}

// The rest of the text's pieces is read and dropped.
void BatchInbox::FailOpen(absl::Status status) {
  if (open_->status.ok()) open_->status = std::move(status);
  open_->input.Clear();
}

void BatchInbox::FinishOpen() {
  bytes_ += SizeOf(open_->input);
  texts_.push_back(*std::move(open_));
  open_.reset();
  changed_.notify_all();
}

bool BatchInbox::Full() const {
  return texts_.size() >= kMaxTexts || (!texts_.empty() && bytes_ >= kMaxWaitingBytes);
}

void BatchInbox::Close() {
  std::lock_guard lock(mutex_);
  if (open_.has_value()) {
    FailOpen(InvalidField("more", absl::StrCat("more was true for id ", Quoted(open_->id),
                                               ", but no further piece came")));
    FinishOpen();
  }
  closed_ = true;
  changed_.notify_all();
}

absl::StatusOr<BatchInbox::Taken> BatchInbox::Take(absl::Duration idle) {
  std::unique_lock lock(mutex_);
  in_work_.clear();
  while (!closed_ && texts_.empty()) {
    const int64_t before = messages_;
    const bool heard = changed_.wait_for(lock, absl::ToChronoNanoseconds(idle),
                                         [&] { return closed_ || messages_ > before; });
    if (heard) continue;
    return WithReason(absl::AbortedError(
                          absl::StrCat("the client sent nothing for batch_idle_seconds (",
                                       absl::FormatDuration(idle), ")")),
                      "IDLE_CLIENT");
  }
  Taken taken;
  if (texts_.empty()) return taken;
  bytes_ -= SizeOf(texts_.front().input);
  taken.text = std::move(texts_.front());
  texts_.pop_front();
  in_work_ = taken.text->id;
  taken.resume = !reading_ && !Full();
  if (taken.resume) reading_ = true;
  return taken;
}

}  // namespace quire::server

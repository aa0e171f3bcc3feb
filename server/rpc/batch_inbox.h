#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <mutex>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "quire/v1/inference.pb.h"

namespace quire::server {

// One text of a ScoreBatch call, its pieces put together, or why it cannot be scored.
struct BatchText {
  std::string id;
  absl::Status status;
  v1::ScoreOptions options;
  v1::Input input;
};

// What a ScoreBatch call has sent and the handler has not yet taken: puts the pieces of a
// text together and bounds what is held. Reading goes on while a text is scored, until
// the bound. One thread pushes, one takes. Has its own lock.
class BatchInbox {
 public:
  // A text may have max_text_bytes; ids count as their size in memory.
  explicit BatchInbox(int64_t max_text_bytes) : max_text_bytes_(max_text_bytes) {}

  // One message. True: read the next one; false: stop until Take says otherwise.
  // kInvalidArgument: the call cannot go on, because an id names no text (1 to 128
  // bytes). All other faults are the text's, which keeps its place in the order.
  absl::StatusOr<bool> Push(v1::ScoreBatchRequest message);
  // Nothing more comes: half-closed, broken or given up. A text without its last piece
  // fails.
  void Close();

  struct Taken {
    std::optional<BatchText> text;  // nullopt: no more
    bool resume = false;            // reading had stopped, and may go on
  };
  // Waits for the next whole text. The id stays in work until the next call of Take.
  // kAborted: no message came for `idle`.
  absl::StatusOr<Taken> Take(absl::Duration idle);

 private:
  void Begin(v1::ScoreBatchRequest& message);
  absl::Status AddPiece(v1::ScoreBatchRequest& message);
  void FailOpen(absl::Status status);
  void FinishOpen();
  bool Full() const;

  const int64_t max_text_bytes_;
  std::mutex mutex_;  // guards all below
  std::condition_variable changed_;
  std::deque<BatchText> texts_;    // whole, in order
  int64_t bytes_ = 0;              // of texts_
  std::optional<BatchText> open_;  // more pieces come
  std::string in_work_;            // the id that was taken last
  bool reading_ = true;
  bool closed_ = false;
  int64_t messages_ = 0;  // pushed so far
};

}  // namespace quire::server

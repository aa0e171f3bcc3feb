#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "core/step/step.h"

namespace quire {

// A StepItem and a StepInput that own what they show.
struct RecordedItem {
  RequestId id{};
  Position begin = 0;
  std::vector<TokenId> tokens;
  std::vector<BlockId> blocks;
  bool sample = false;
  SamplingParams sampling;
  std::vector<TokenId> history;
  int64_t sample_step = 0;
  std::vector<TokenId> targets;
  bool ranks = false;
  int32_t top_logprobs = 0;
  AttentionOptions attention;
  bool last_chunk = false;
  bool importance = false;
};
struct RecordedStep {
  std::vector<RecordedItem> items;
  std::vector<BlockCopy> copies;
  std::vector<RequestId> released;
};

// A model without a network, for tests of everything above ModelRunner. The engine owns
// the runner that MakeRunner returns; the test keeps the model, scripts it and looks into
// it.
//
// It keeps a paged cache of tokens, written and read through each item's block table,
// each token with a hash of all before it: a wrong table, a gap, a block that another
// sequence wrote to, or a shared page of another beginning is kInternal and fails the
// test's request. Of a block that it dropped it keeps the tokens, as a real runner keeps
// means. Thread-safe, except that the functions are set before the first step.
class FakeModel {
 public:
  // The next token, from all tokens of the sequence so far. Default: the last one + 1,
  // modulo vocab_size.
  using NextToken = std::function<TokenId(absl::Span<const TokenId> sequence)>;
  // ln P(target | prefix). Default: FakeLogprob(target).
  using LogprobOf =
      std::function<float(absl::Span<const TokenId> prefix, TokenId target)>;

  // The audited error of a step that has sparse rows; nullopt: nothing was audited, which
  // is the default.
  using AuditError = std::function<std::optional<double>(const AttentionOptions&)>;
  // StepResult::dropped_blocks of a prompt's last chunk, if the request is compact.
  // Default: none.
  using Drop = std::function<std::vector<int32_t>(const StepItem&)>;

  explicit FakeModel(int32_t vocab_size = 100, int32_t tokens_per_block = 64);

  void set_next(NextToken next) { next_ = std::move(next); }
  void set_logprob(LogprobOf logprob) { logprob_ = std::move(logprob); }
  void set_audit_error(AuditError error) { audit_error_ = std::move(error); }
  void set_drop(Drop drop) { drop_ = std::move(drop); }
  // An item for which this is not OK fails with it, alone; null: none does.
  void set_fail_item(std::function<absl::Status(const StepItem&)> fail_item) {
    fail_item_ = std::move(fail_item);
  }
  // A step for which this is not OK fails as a whole, before anything of it is done.
  void set_fail_step(std::function<absl::Status(const StepInput&)> fail_step) {
    fail_step_ = std::move(fail_step);
  }
  // Called at the start of every step, e.g. to advance a FakeClock or to cancel a
  // request.
  void set_on_step(std::function<void(const StepInput&)> on_step) {
    on_step_ = std::move(on_step);
  }

  // As a runner whose device computes by itself: calls StepInput::meanwhile, and then
  // `on_wait` if it is not null, once nothing of the above has failed a step and before
  // anything of it is done. An item that meanwhile changes is kInternal.
  void LaunchSteps(std::function<void(const StepInput&)> on_wait = nullptr) {
    launches_ = true;
    on_wait_ = std::move(on_wait);
  }

  // The n-th call of Step from the start (0: the first) returns this, or throws it.
  void FailStep(int64_t n, absl::Status status);
  void ThrowAtStep(int64_t n, std::string what);

  // Steps wait, before they do anything, from Block until Release.
  void Block();
  void Release();
  void WaitUntilBlocked();  // until a step waits

  std::vector<RecordedStep> steps() const;
  int64_t num_steps() const;

  std::unique_ptr<ModelRunner> MakeRunner();

 private:
  class Runner;
  absl::StatusOr<std::vector<StepResult>> Step(const StepInput& input);
  absl::Status Enter(const StepInput& input);
  absl::Status Launch(const StepInput& input) const;
  absl::StatusOr<StepResult> Compute(const StepItem& item);
  void Copy(const BlockCopy& copy);
  absl::StatusOr<std::vector<TokenId>> WriteAndRead(const StepItem& item);
  TokenScore Score(absl::Span<const TokenId> prefix, TokenId target, bool ranks,
                   int32_t top) const;
  AttentionStats Attend(const StepItem& item) const;
  std::vector<int32_t> DropBlocks(const StepItem& item);

  const int32_t vocab_size_;
  const int32_t tokens_per_block_;
  NextToken next_;
  LogprobOf logprob_;
  AuditError audit_error_;
  Drop drop_;
  std::function<absl::Status(const StepItem&)> fail_item_;
  std::function<absl::Status(const StepInput&)> fail_step_;
  std::function<void(const StepInput&)> on_step_;
  bool launches_ = false;
  std::function<void(const StepInput&)> on_wait_;

  struct CacheSlot {
    TokenId token = 0;
    uint64_t prefix = 0;  // hash of all tokens up to this one
  };
  std::map<std::pair<BlockId, int32_t>, CacheSlot> cache_;    // used by Step only
  std::map<std::pair<RequestId, int64_t>, TokenId> dropped_;  // by position; as above

  mutable std::mutex mutex_;  // guards all below
  std::condition_variable changed_;
  bool blocked_ = false;
  bool step_waits_ = false;
  std::map<int64_t, absl::Status> failures_;
  std::map<int64_t, std::string> throws_;
  std::vector<RecordedStep> steps_;
};

// The default model's numbers: logprob -(1 + target % 8) / 8, rank 1 + target % 8; the
// i-th alternative (from 0) is token i with logprob -(1 + i) / 8.
float FakeLogprob(TokenId target);
int32_t FakeRank(TokenId target);

// What attention of the tokens at positions [begin, begin + rows) is said to take. A
// dense row at position p reads p + 1 columns; a sparse one, p / 4 + 1, after looking at
// all p + 1: faithful where more than group_tokens are visible, refined and auto from
// SparseFrom() on. A column is 8 multiply-adds and 4 bytes, one looked at 1 and 1; each
// row's statistics are 2 and 1. A millisecond a row, a tenth of it for selection.
// Coverage 3/4, tail risk eps / 4. No audits.
AttentionStats FakeAttention(const AttentionOptions& options, Position begin,
                             int64_t rows);

// Probed queries pay a token so many times what TextScoreObserver::OnImportance expects
// of them: (1 + id % 8) / 4.5, its importance. (Their shares thus sum to 1 on average
// only.)
double FakeWeight(TokenId token);

}  // namespace quire

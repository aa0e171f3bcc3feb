#include "tests/support/fake_runner.h"

#include <algorithm>
#include <stdexcept>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/dga/probe_positions.h"

namespace quire {
namespace {

template <typename T>
std::vector<T> Copy(absl::Span<const T> values) {
  return std::vector<T>(values.begin(), values.end());
}

RecordedStep Record(const StepInput& input) {
  RecordedStep step{.copies = input.copies, .released = input.released};
  for (const StepItem& item : input.items) {
    step.items.push_back({.id = item.id,
                          .begin = item.begin,
                          .tokens = Copy(item.tokens),
                          .blocks = Copy(item.blocks),
                          .sample = item.sample,
                          .sampling = item.sampling,
                          .history = Copy(item.history),
                          .sample_step = item.sample_step,
                          .targets = Copy(item.targets),
                          .ranks = item.ranks,
                          .top_logprobs = item.top_logprobs,
                          .attention = item.attention,
                          .last_chunk = item.last_chunk,
                          .importance = item.importance});
  }
  return step;
}

bool IsSparse(const AttentionOptions& options, int64_t visible) {
  switch (options.mode) {
    case AttentionMode::kDense:
      return false;
    case AttentionMode::kFaithful:
      return visible > options.faithful.group_tokens;
    case AttentionMode::kAuto:
    case AttentionMode::kRefined:
      break;
  }
  return options.eps > 0 && visible >= options.SparseFrom();
}

AttentionProbe Probe(const StepItem& item, absl::Span<const TokenId> sequence) {
  AttentionProbe probe;
  probe.attention.assign(sequence.size(), 0);
  const auto rows = static_cast<int64_t>(item.tokens.size());
  for (const int64_t row : ProbedRows(item.begin, rows, item.last_chunk)) {
    const Position query = item.begin + static_cast<Position>(row);
    probe.queries.push_back(query);
    double harmonic = 0;
    for (Position i = 0; i <= query; ++i) harmonic += 1.0 / (i + 1);
    for (Position i = 0; i <= query; ++i) {
      probe.attention[i] +=
          static_cast<float>(FakeWeight(sequence[i]) / (query - i + 1) / harmonic);
    }
  }
  return probe;
}

}  // namespace

AttentionStats FakeAttention(const AttentionOptions& options, Position begin,
                             int64_t rows) {
  AttentionStats stats;
  AttentionWork& work = stats.work;
  for (int64_t visible = begin + 1; visible <= begin + rows; ++visible) {
    const bool sparse = IsSparse(options, visible);
    work.columns += sparse ? (visible - 1) / 4 + 1 : visible;
    work.dense_columns += visible;
    if (!sparse) continue;
    ++stats.sparse_rows;
    work.expanded_columns += (visible - 1) / 4;
    work.selection_macs += visible;
  }
  const double sparse_rows = static_cast<double>(stats.sparse_rows);
  work.selection_bytes = work.selection_macs;
  work.attention_macs = 8 * work.columns;
  work.attention_bytes = 4 * work.columns;
  work.dense_macs = 8 * work.dense_columns;
  work.dense_bytes = 4 * work.dense_columns;
  if (options.mode != AttentionMode::kDense) {
    work.statistics_macs = 2 * rows;
    work.statistics_bytes = rows;
  }
  stats.seconds = 1e-3 * static_cast<double>(rows);
  stats.selection_seconds = 1e-4 * sparse_rows;
  stats.coverage = 0.75 * sparse_rows;
  stats.tail_risk = options.eps / 4 * sparse_rows;
  return stats;
}

double FakeWeight(TokenId token) { return (1 + token % 8) / 4.5; }

float FakeLogprob(TokenId target) { return -0.125f * static_cast<float>(1 + target % 8); }
int32_t FakeRank(TokenId target) { return 1 + target % 8; }

class FakeModel::Runner final : public ModelRunner {
 public:
  explicit Runner(FakeModel& model) : model_(model) {}
  absl::StatusOr<std::vector<StepResult>> Step(const StepInput& input) override {
    return model_.Step(input);
  }

 private:
  FakeModel& model_;
};

FakeModel::FakeModel(int32_t vocab_size, int32_t tokens_per_block)
    : vocab_size_(vocab_size), tokens_per_block_(tokens_per_block) {
  next_ = [vocab_size](absl::Span<const TokenId> sequence) {
    return (sequence.back() + 1) % vocab_size;
  };
  logprob_ = [](absl::Span<const TokenId>, TokenId target) {
    return FakeLogprob(target);
  };
}

void FakeModel::FailStep(int64_t n, absl::Status status) {
  std::lock_guard lock(mutex_);
  failures_[n] = std::move(status);
}

void FakeModel::ThrowAtStep(int64_t n, std::string what) {
  std::lock_guard lock(mutex_);
  throws_[n] = std::move(what);
}

void FakeModel::Block() {
  std::lock_guard lock(mutex_);
  blocked_ = true;
}

void FakeModel::Release() {
  std::lock_guard lock(mutex_);
  blocked_ = false;
  changed_.notify_all();
}

void FakeModel::WaitUntilBlocked() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return step_waits_; });
}

std::vector<RecordedStep> FakeModel::steps() const {
  std::lock_guard lock(mutex_);
  return steps_;
}

int64_t FakeModel::num_steps() const {
  std::lock_guard lock(mutex_);
  return static_cast<int64_t>(steps_.size());
}

std::unique_ptr<ModelRunner> FakeModel::MakeRunner() {
  return std::make_unique<Runner>(*this);
}

absl::Status FakeModel::Enter(const StepInput& input) {
  std::unique_lock lock(mutex_);
  const int64_t n = static_cast<int64_t>(steps_.size());
  steps_.push_back(Record(input));
  step_waits_ = blocked_;
  changed_.notify_all();
  changed_.wait(lock, [this] { return !blocked_; });
  step_waits_ = false;
  if (auto it = throws_.find(n); it != throws_.end())
    throw std::runtime_error(it->second);
  if (auto it = failures_.find(n); it != failures_.end()) return it->second;
  return absl::OkStatus();
}

absl::Status FakeModel::Launch(const StepInput& input) const {
  const RecordedStep launched = Record(input);
  if (input.meanwhile) input.meanwhile();
  if (on_wait_) on_wait_(input);
  const RecordedStep computed = Record(input);
  const bool same = std::equal(
      launched.items.begin(), launched.items.end(), computed.items.begin(),
      computed.items.end(), [](const RecordedItem& a, const RecordedItem& b) {
        return std::tie(a.id, a.begin, a.tokens, a.blocks, a.history, a.targets) ==
               std::tie(b.id, b.begin, b.tokens, b.blocks, b.history, b.targets);
      });
  if (same) return absl::OkStatus();
  return absl::InternalError("fake runner: the step was changed while it was computed");
}

absl::StatusOr<std::vector<StepResult>> FakeModel::Step(const StepInput& input) {
  QUIRE_RETURN_IF_ERROR(Enter(input));
  if (on_step_) on_step_(input);
  if (fail_step_) QUIRE_RETURN_IF_ERROR(fail_step_(input));
  if (launches_) QUIRE_RETURN_IF_ERROR(Launch(input));
  for (const BlockCopy& copy : input.copies) Copy(copy);
  std::vector<StepResult> results;
  for (const StepItem& item : input.items) {
    if (fail_item_) {
      if (absl::Status status = fail_item_(item); !status.ok()) {
        results.push_back({.id = item.id, .status = std::move(status)});
        continue;
      }
    }
    QUIRE_ASSIGN_OR_RETURN(StepResult result, Compute(item));
    results.push_back(std::move(result));
  }
  return results;
}

absl::StatusOr<StepResult> FakeModel::Compute(const StepItem& item) {
  QUIRE_ASSIGN_OR_RETURN(const std::vector<TokenId> sequence, WriteAndRead(item));
  const absl::Span<const TokenId> all(sequence);
  StepResult result{.id = item.id};
  for (size_t i = 0; i < item.targets.size(); ++i) {
    if (item.targets[i] == kNoTarget) continue;
    result.scores.push_back(Score(all.first(static_cast<size_t>(item.begin) + i + 1),
                                  item.targets[i], item.ranks, item.top_logprobs));
  }
  if (item.sample) result.sampled = Score(all, next_(all), false, item.top_logprobs);
  result.attention = Attend(item);
  if (item.importance) result.importance = Probe(item, all);
  result.dropped_blocks = DropBlocks(item);
  return result;
}

AttentionStats FakeModel::Attend(const StepItem& item) const {
  const auto rows = static_cast<int64_t>(item.tokens.size());
  AttentionStats stats = FakeAttention(item.attention, item.begin, rows);
  if (!audit_error_ || stats.sparse_rows == 0) return stats;
  const std::optional<double> error = audit_error_(item.attention);
  if (!error.has_value()) return stats;
  stats.audits = 1;
  stats.audit_error = *error;
  stats.max_audit_error = *error;
  stats.work.audit_macs = 8 * (item.begin + rows);
  stats.work.audit_bytes = 4 * (item.begin + rows);
  return stats;
}

std::vector<int32_t> FakeModel::DropBlocks(const StepItem& item) {
  if (!drop_ || !item.attention.compact || !item.last_chunk) return {};
  std::vector<int32_t> dropped = drop_(item);
  for (const int32_t index : dropped) {
    if (index < 0 || index >= static_cast<int64_t>(item.blocks.size())) continue;
    for (int32_t i = 0; i < tokens_per_block_; ++i) {
      const auto found = cache_.find({item.blocks[index], i});
      if (found == cache_.end()) continue;
      dropped_[{item.id, int64_t{index} * tokens_per_block_ + i}] = found->second.token;
    }
  }
  return dropped;
}

void FakeModel::Copy(const BlockCopy& copy) {
  for (int32_t i = 0; i < tokens_per_block_; ++i) {
    const auto found = cache_.find({copy.from, i});
    if (found != cache_.end()) cache_[{copy.to, i}] = found->second;
  }
}

absl::StatusOr<std::vector<TokenId>> FakeModel::WriteAndRead(const StepItem& item) {
  const int64_t end = item.begin + static_cast<int64_t>(item.tokens.size());
  if (item.tokens.empty() ||
      static_cast<int64_t>(item.blocks.size()) * tokens_per_block_ < end ||
      (!item.targets.empty() && item.targets.size() != item.tokens.size())) {
    return absl::InternalError("fake runner: malformed item");
  }
  std::vector<TokenId> sequence;
  uint64_t prefix = 0;  // what stands for all tokens so far
  const auto append = [&](TokenId token) {
    sequence.push_back(token);
    prefix = (prefix ^ static_cast<uint64_t>(token + 1)) * 0x9e3779b97f4a7c15u;
    prefix ^= prefix >> 29;
  };
  for (int64_t position = 0; position < end; ++position) {
    if (const auto kept = dropped_.find({item.id, position});
        kept != dropped_.end() && position < item.begin) {
      if (item.blocks[position / tokens_per_block_] != kNoBlock) {
        return absl::InternalError("fake runner: a dropped block is passed again");
      }
      append(kept->second);
      continue;
    }
    const auto slot = std::make_pair(item.blocks[position / tokens_per_block_],
                                     static_cast<int32_t>(position % tokens_per_block_));
    if (position >= item.begin) {
      append(item.tokens[position - item.begin]);
      cache_[slot] = {item.tokens[position - item.begin], prefix};
      continue;
    }
    const auto found = cache_.find(slot);
    if (found != cache_.end()) append(found->second.token);
    if (found == cache_.end() || found->second.prefix != prefix) {
      return absl::InternalError(
          absl::StrCat("fake runner: position ", position, " is not in the cache"));
    }
  }
  return sequence;
}

TokenScore FakeModel::Score(absl::Span<const TokenId> prefix, TokenId target, bool ranks,
                            int32_t top) const {
  TokenScore score{.token = target,
                   .logprob = logprob_(prefix, target),
                   .rank = ranks ? FakeRank(target) : 0};
  for (TokenId i = 0; i < std::min(top, vocab_size_); ++i) {
    score.top.push_back({i, -0.125f * static_cast<float>(1 + i)});
  }
  return score;
}

}  // namespace quire

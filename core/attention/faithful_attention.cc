#include "core/attention/faithful_attention.h"

#include <algorithm>
#include <chrono>
#include <limits>

#include "ATen/TensorOperators.h"
#include "ATen/ops/cat.h"
#include "ATen/ops/empty.h"
#include "ATen/ops/matmul.h"
#include "core/attention/faithful_cache.h"
#include "core/attention/faithful_groups.h"
#include "core/base/check.h"

namespace quire {
namespace {

// What a row reads of a head's columns: the first focal and group columns, and the raw
// ones in [raw_begin, raw_end).
struct RowColumns {
  int64_t focal, groups, raw_begin, raw_end;
  int64_t count() const { return focal + groups + raw_end - raw_begin; }
};

// One head's rows of a step against everything they may read.
class HeadRows {
 public:
  HeadRows(const HeadQueries& queries, const FaithfulLayer::Head& head,
           const FaithfulCache& cache)
      : queries_(queries), plan_(head.plan), cache_(cache) {
    const auto groups = static_cast<int64_t>(plan_.last.size());
    focal_ = cache.Read(plan_.focal);
    raw_positions_ =
        NotFocal(plan_, ViewOf(plan_, queries.begin).raw_begin, queries.end());
    // No row reads a group's last member raw: its own row reads the group.
    std::erase_if(raw_positions_, [this](Position p) {
      return std::binary_search(plan_.last.begin(), plan_.last.end(), p);
    });
    raw_ = cache.Read(raw_positions_);
    if (groups == 0) {
      groups_ = {at::empty({0, cache.head_dim()}), at::empty({0, cache.head_dim()})};
      bias_ = at::empty({0});
    } else {
      groups_ = {head.keys.narrow(0, 0, groups), head.values.narrow(0, 0, groups)};
      bias_ = head.bias.narrow(0, 0, groups);
    }
  }

  // Rows [first, first + count) -> [count, R, D] float32.
  at::Tensor Attend(int64_t first, int64_t count, AttentionStats& stats) const {
    const RowColumns begin = Columns(first), end = Columns(first + count - 1);
    const RowColumns task = {end.focal, end.groups, begin.raw_begin, end.raw_end};
    const at::Tensor scores = Scores(first, count, task);
    const int64_t share = scores.size(1);
    for (int64_t i = 0; i < count; ++i) {
      const RowColumns row = Columns(first + i);
      Hide(row, task, share, scores.data_ptr<float>() + i * share * task.count());
      Count(row, share, stats);
    }
    CountBytes(task, stats.work);
    const at::Tensor p = scores.softmax(-1);
    const at::Tensor grouped = p.narrow(2, task.focal, task.groups);
    stats.coverage -= grouped.sum(at::kDouble).item<double>();
    const int64_t raw = task.raw_end - task.raw_begin;
    return at::matmul(p.narrow(2, 0, task.focal), focal_.values.narrow(0, 0, task.focal))
        .add_(at::matmul(grouped, groups_.values.narrow(0, 0, task.groups)))
        .add_(at::matmul(p.narrow(2, task.focal + task.groups, raw),
                         raw_.values.narrow(0, task.raw_begin, raw)));
  }

 private:
  RowColumns Columns(int64_t row) const {
    const Position position = queries_.begin + static_cast<Position>(row);
    const RowView view = ViewOf(plan_, position);
    const auto first = raw_positions_.begin(), last = raw_positions_.end();
    return {view.focal, view.groups,
            std::lower_bound(first, last, view.raw_begin) - first,
            std::upper_bound(first, last, position) - first};
  }

  // [count, R, columns of the task].
  at::Tensor Scores(int64_t first, int64_t count, const RowColumns& task) const {
    const at::Tensor q =
        queries_.q.narrow(0, first, count).to(at::kFloat).mul(queries_.scale);
    const auto score = [&](const at::Tensor& keys, int64_t begin, int64_t end) {
      return at::matmul(q, keys.narrow(0, begin, end - begin).t());
    };
    return at::cat({score(focal_.keys, 0, task.focal),
                    score(groups_.keys, 0, task.groups) + bias_.narrow(0, 0, task.groups),
                    score(raw_.keys, task.raw_begin, task.raw_end)},
                   -1);
  }

  // Removes from one row's scores [R, columns of the task] what only other rows read.
  static void Hide(const RowColumns& row, const RowColumns& task, int64_t share,
                   float* scores) {
    const int64_t raw = task.focal + task.groups - task.raw_begin;
    for (int64_t r = 0; r < share; ++r, scores += task.count()) {
      const auto hide = [&](int64_t begin, int64_t end) {
        std::fill(scores + begin, scores + end, -std::numeric_limits<float>::infinity());
      };
      hide(row.focal, task.focal);
      hide(task.focal + row.groups, task.focal + task.groups);
      hide(raw + task.raw_begin, raw + row.raw_begin);
      hide(raw + row.raw_end, raw + task.raw_end);
    }
  }

  void Count(const RowColumns& row, int64_t share, AttentionStats& stats) const {
    stats.work.columns += row.count() * share;
    stats.work.attention_macs += row.count() * share * 2 * cache_.head_dim();
    if (row.groups == 0) return;
    stats.work.expanded_columns += row.focal * share;
    stats.sparse_rows += share;
    stats.coverage += static_cast<double>(share);  // less what the groups get
  }

  void CountBytes(const RowColumns& task, AttentionWork& work) const {
    const int64_t group = (2 * cache_.head_dim() + 1) * int64_t{sizeof(float)};
    work.attention_bytes +=
        (task.focal + task.raw_end - task.raw_begin) * 2 * cache_.row_bytes() +
        task.groups * group;
  }

  const HeadQueries& queries_;
  const GroupPlan& plan_;
  const FaithfulCache& cache_;
  std::vector<Position> raw_positions_;
  FaithfulCache::KeysValues focal_, groups_, raw_;
  at::Tensor bias_;  // [groups]
};

// One layer of one sequence in one step.
class FaithfulStep {
 public:
  FaithfulStep(const at::Tensor& q, const kernels::PagedKv& kv,
               const kernels::SequenceRows& sequence, float scale,
               const FaithfulOptions& options, FaithfulLayer& state, at::Tensor& out,
               AttentionStats& stats, int64_t* head_columns)
      : q_(q),
        kv_(kv),
        sequence_(sequence),
        scale_(scale),
        options_(options),
        state_(state),
        out_(out),
        stats_(stats),
        head_columns_(head_columns) {}

  void Run() {
    const bool split = End() - state_.grouped_end >= RegroupTokens(options_);
    const bool before = options_.whole_prompt && sequence_.rows > 1;
    if (split && before) Split();
    for (int64_t head = 0; head < q_.size(0); ++head) {
      const int64_t before = stats_.work.columns;
      Attend(head);
      if (head_columns_ != nullptr) head_columns_[head] += stats_.work.columns - before;
    }
    if (split && !before) Split();
  }

 private:
  Position End() const { return sequence_.begin + static_cast<Position>(sequence_.rows); }
  FaithfulCache Cache(int64_t head) const { return {kv_, sequence_.blocks, head}; }
  HeadQueries Queries(int64_t head) const {
    return {q_[head].narrow(0, sequence_.first_row, sequence_.rows), sequence_.begin,
            scale_};
  }

  void Attend(int64_t head) {
    const FaithfulCache cache = Cache(head);
    const HeadQueries queries = Queries(head);
    const HeadRows rows(queries, state_.heads[head], cache);
    const int64_t task = std::max<int64_t>(1, kFaithfulTaskQueries / q_.size(2));
    const at::Tensor out = out_.narrow(0, sequence_.first_row, sequence_.rows)
                               .view({sequence_.rows, q_.size(0), q_.size(2), q_.size(3)})
                               .select(1, head);
    for (int64_t first = 0; first < sequence_.rows; first += task) {
      const int64_t count = std::min(task, sequence_.rows - first);
      out.narrow(0, first, count).copy_(rows.Attend(first, count, stats_));
    }
  }

  // All raw tokens become focal or join groups.
  void Split() {
    const auto began = std::chrono::steady_clock::now();
    for (int64_t head = 0; head < q_.size(0); ++head) SplitHead(head);
    state_.grouped_end = End();
    stats_.selection_seconds +=
        std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();
  }

  void SplitHead(int64_t index) {
    FaithfulLayer::Head& head = state_.heads[index];
    const FaithfulCache cache = Cache(index);
    const HeadQueries queries = Queries(index);
    const Position begin = state_.grouped_end;
    const RawSplit split = SplitOf(options_, begin, End(), sequence_.rows,
                                   static_cast<int64_t>(head.plan.focal.size()));
    const std::vector<float> scores =
        !split.needs_scores() ? std::vector<float>(split.fresh)
        : split.by_last_query
            ? LastQueryAttention(cache, queries, options_, begin, stats_.work)
            : TokenImportance(cache, queries, options_.sampled_queries, begin,
                              stats_.work);
    const std::vector<Position> members =
        AppendTokens(begin, scores, split.focal, options_.group_tokens, head.plan);
    AppendGroups(cache, queries, options_, members, head, stats_.work);
  }

  const at::Tensor& q_;
  const kernels::PagedKv& kv_;
  const kernels::SequenceRows& sequence_;
  const float scale_;
  const FaithfulOptions& options_;
  FaithfulLayer& state_;
  at::Tensor& out_;
  AttentionStats& stats_;
  int64_t* const head_columns_;
};

}  // namespace

void FaithfulAttention(const at::Tensor& q, const kernels::PagedKv& kv,
                       const kernels::SequenceRows& sequence, float scale,
                       const FaithfulOptions& options, FaithfulLayer& state,
                       at::Tensor& out, AttentionStats& stats, int64_t* head_columns) {
  QUIRE_CHECK(options.group_tokens >= 1 && options.sampled_queries >= 1);
  QUIRE_CHECK(sequence.rows >= 1 && state.grouped_end <= sequence.begin);
  state.heads.resize(q.size(0));
  FaithfulStep(q, kv, sequence, scale, options, state, out, stats, head_columns).Run();
}

}  // namespace quire

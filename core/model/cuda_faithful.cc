#include "core/model/cuda_faithful.h"

#include <algorithm>
#include <limits>

#include "ATen/TensorOperators.h"
#include "ATen/ops/arange.h"
#include "ATen/ops/bmm.h"
#include "ATen/ops/cat.h"
#include "ATen/ops/empty.h"
#include "ATen/ops/floor_divide.h"
#include "ATen/ops/full.h"
#include "ATen/ops/index_select.h"
#include "ATen/ops/zeros.h"
#include "core/attention/faithful_groups.h"
#include "core/base/check.h"

namespace quire {
namespace {

// Scores that exist at a time: 128 MiB, and their softmax as much.
constexpr int64_t kScores = 32 << 20;

int64_t RowBytes(const at::Tensor& side) { return side.size(3) * side.element_size(); }

// [n, n'] on any device -> row by row on the host. Waits for the device.
std::vector<float> ToVector(const at::Tensor& t) {
  const at::Tensor host = t.to(at::kCPU).contiguous();
  return {host.const_data_ptr<float>(), host.const_data_ptr<float>() + host.numel()};
}

}  // namespace

CudaFaithful::CudaFaithful(int32_t layers, int64_t kv_heads)
    : kv_heads_(kv_heads), layers_(layers) {
  for (Layer& layer : layers_) layer.plans.resize(kv_heads);
}

void CudaFaithful::Begin(const kernels::SequenceRows& rows,
                         const FaithfulOptions& options, at::Device device) {
  QUIRE_CHECK(options.group_tokens >= 1 && options.sampled_queries >= 1);
  QUIRE_CHECK(rows.rows >= 1);
  rows_ = rows;
  options_ = options;
  device_ = device;
  std::vector<int64_t> blocks;
  for (const BlockId block : rows.blocks) blocks.push_back(static_cast<int64_t>(block));
  const auto longs = at::TensorOptions(at::kLong).device(device);
  blocks_ = Send(blocks);
  positions_ = at::arange(rows.begin, End(), longs);
  heads_ = at::arange(kv_heads_, longs);
  stats_ = {};
  grouped_share_ = at::zeros({}, longs.dtype(at::kDouble));
}

void CudaFaithful::Attend(int32_t layer, const at::Tensor& q, const at::Tensor& k,
                          const at::Tensor& v, float scale, at::Tensor& out) {
  Layer& l = layers_[layer];
  QUIRE_CHECK(l.grouped_end <= rows_.begin);
  const Tensors tensors = {q, k, v, scale, out};
  const bool split = End() - l.grouped_end >= RegroupTokens(options_);
  const bool before = options_.whole_prompt && rows_.rows > 1;
  if (split && before) Split(l, tensors);
  Read(l, tensors);
  if (split && !before) Split(l, tensors);
}

// Pinned, so that the copy does not wait; ATen keeps the memory until it is done.
at::Tensor CudaFaithful::Send(absl::Span<const int64_t> values) const {
  const at::Tensor host =
      at::empty({static_cast<int64_t>(values.size())},
                at::TensorOptions(at::kLong).pinned_memory(device_.is_cuda()));
  std::copy(values.begin(), values.end(), host.data_ptr<int64_t>());
  return host.to(device_, at::kLong, /*non_blocking=*/true);
}

// side [num_blocks, G, B, D] at positions [n, G] -> [G, n, D] float32.
at::Tensor CudaFaithful::Gather(const at::Tensor& side,
                                const at::Tensor& positions) const {
  const int64_t tokens = side.size(2), d = side.size(3);
  const at::Tensor blocks =
      at::index_select(blocks_, 0, at::floor_divide(positions, tokens).flatten())
          .view(positions.sizes());
  const at::Tensor places =
      (blocks * kv_heads_ + heads_) * tokens + positions.remainder(tokens);
  return at::index_select(side.view({-1, d}), 0, places.t().flatten())
      .view({kv_heads_, positions.size(0), d})
      .to(at::kFloat);
}

// q [n, H, D] times `scale` -> [G, n R, D] float32.
at::Tensor CudaFaithful::ByHead(const at::Tensor& q, float scale) const {
  const int64_t n = q.size(0), share = q.size(1) / kv_heads_, d = q.size(2);
  return q.view({n, kv_heads_, share, d})
      .transpose(0, 1)
      .reshape({kv_heads_, n * share, d})
      .to(at::kFloat)
      .mul(scale);
}

void CudaFaithful::Count(const GroupPlan& plan, absl::Span<const RawColumn> raw,
                         const Tensors& t) {
  const PlanReads reads = ReadsOf(plan, raw, rows_.begin, End());
  const int64_t share = t.q.size(1) / kv_heads_, d = t.q.size(2);
  stats_.work.columns += reads.columns * share;
  stats_.work.attention_macs += reads.columns * share * 2 * d;
  stats_.work.expanded_columns += reads.focal * share;
  stats_.sparse_rows += reads.grouped_rows * share;
  stats_.coverage += static_cast<double>(reads.grouped_rows * share);
  const RowView last = ViewOf(plan, End() - 1);
  stats_.work.attention_bytes +=
      (last.focal + static_cast<int64_t>(raw.size())) * 2 * RowBytes(t.k) +
      last.groups * (2 * d + 1) * int64_t{sizeof(float)};
}

// Heads may have unequally many raw columns: the others get some that no row reads.
CudaFaithful::Columns CudaFaithful::ColumnsOf(const Layer& layer, const Tensors& t) {
  std::vector<std::vector<RawColumn>> raw;
  size_t n = 0;
  for (const GroupPlan& plan : layer.plans) {
    raw.push_back(RawColumns(plan, rows_.begin, End()));
    Count(plan, raw.back(), t);
    n = std::max(n, raw.back().size());
  }
  std::vector<int64_t> positions, from, until;  // [n, G]
  for (size_t i = 0; i < n; ++i) {
    for (const std::vector<RawColumn>& head : raw) {
      const bool some = i < head.size();
      positions.push_back(some ? head[i].position : rows_.begin);
      from.push_back(some ? head[i].position : kReadForever);
      until.push_back(some ? head[i].until : kReadForever);
    }
  }
  std::vector<int64_t> table = positions;
  table.insert(table.end(), from.begin(), from.end());
  table.insert(table.end(), until.begin(), until.end());
  const at::Tensor sent = Send(table).view({3, static_cast<int64_t>(n), kv_heads_});
  Columns c;
  c.groups = layer.group_count();
  c.focal = layer.focal_count();
  at::Tensor tokens = sent[0];
  if (c.focal > 0) tokens = at::cat({layer.focal.narrow(0, 0, c.focal), tokens});
  c.keys = Gather(t.k, tokens);
  c.values = Gather(t.v, tokens);
  if (c.groups > 0) {
    const auto pooled = [&](const at::Tensor& side) {
      return side.narrow(0, 0, c.groups).transpose(0, 1);
    };
    c.keys = at::cat({pooled(layer.keys), c.keys}, 1);
    c.values = at::cat({pooled(layer.values), c.values}, 1);
    c.bias = layer.bias.narrow(0, 0, c.groups).t().unsqueeze(1);
  }
  if (rows_.rows > 1) {
    c.from = sent[1].t();
    c.until = sent[2].t();
    if (layer.grouped_end > rows_.begin) HideAhead(layer, c);
  }
  return c;
}

// Focal tokens and groups of the step itself are not read by the rows before them.
void CudaFaithful::HideAhead(const Layer& layer, Columns& c) const {
  std::vector<int64_t> last;  // [G, groups]
  for (const GroupPlan& plan : layer.plans) {
    last.insert(last.end(), plan.last.begin(), plan.last.end());
  }
  std::vector<at::Tensor> from = {Send(last).view({kv_heads_, c.groups})};
  if (c.focal > 0) from.push_back(layer.focal.narrow(0, 0, c.focal).t());
  from.push_back(c.from);
  c.from = at::cat(from, 1);
  c.until =
      at::cat({at::full({kv_heads_, c.groups + c.focal}, kReadForever, c.until.options()),
               c.until},
              1);
}

// Removes from scores [G, count R, C] of some rows what only others read.
void CudaFaithful::Hide(const Columns& columns, int64_t first, int64_t count,
                        at::Tensor& scores) const {
  if (!columns.from.defined()) return;
  const int64_t all = scores.size(2), hidden = columns.from.size(1);
  const at::Tensor row = positions_.narrow(0, first, count).view({1, count, 1});
  const at::Tensor unread =
      columns.from.unsqueeze(1).gt(row).logical_or(columns.until.unsqueeze(1).le(row));
  scores.view({kv_heads_, count, -1, all})
      .narrow(3, all - hidden, hidden)
      .masked_fill_(unread.unsqueeze(2), -std::numeric_limits<float>::infinity());
}

void CudaFaithful::Read(const Layer& layer, const Tensors& t) {
  const Columns c = ColumnsOf(layer, t);
  const at::Tensor q = QueriesOf(t), keys = c.keys.transpose(1, 2);
  const int64_t share = t.q.size(1) / kv_heads_, d = t.q.size(2);
  const int64_t task = std::max<int64_t>(1, kScores / (t.q.size(1) * c.keys.size(1)));
  for (int64_t first = 0; first < rows_.rows; first += task) {
    const int64_t count = std::min(task, rows_.rows - first);
    at::Tensor scores = at::bmm(ByHead(q.narrow(0, first, count), t.scale), keys);
    if (c.groups > 0) scores.narrow(2, 0, c.groups).add_(c.bias);
    Hide(c, first, count, scores);
    const at::Tensor p = scores.softmax(-1);
    if (c.groups > 0) grouped_share_.add_(p.narrow(2, 0, c.groups).sum(at::kDouble));
    t.out.narrow(0, rows_.first_row + first, count)
        .view({count, kv_heads_, share, d})
        .copy_(at::bmm(p, c.values).view({kv_heads_, count, share, d}).transpose(0, 1));
  }
}

// All raw tokens become focal or join groups.
void CudaFaithful::Split(Layer& layer, const Tensors& t) {
  const int64_t m = options_.group_tokens, used = layer.focal_count();
  const RawSplit split = SplitOf(options_, layer.grouped_end, End(), rows_.rows, used);
  const std::vector<float> scores = !split.needs_scores()
                                        ? std::vector<float>(kv_heads_ * split.fresh)
                                    : split.by_last_query ? LastQueryAttention(layer, t)
                                                          : TokenImportance(layer, t);
  std::vector<std::vector<Position>> members;
  for (int64_t g = 0; g < kv_heads_; ++g) {
    members.push_back(
        AppendTokens(layer.grouped_end,
                     absl::MakeConstSpan(scores).subspan(g * split.fresh, split.fresh),
                     split.focal, options_.group_tokens, layer.plans[g]));
  }
  if (split.focal > 0) {
    std::vector<int64_t> focal;  // [focal, G]
    for (int64_t i = used; i < used + split.focal; ++i) {
      for (const GroupPlan& plan : layer.plans) focal.push_back(plan.focal[i]);
    }
    AppendRows(Send(focal).view({split.focal, kv_heads_}), used, layer.focal);
  }
  if (static_cast<int64_t>(members[0].size()) >= m) AppendGroups(layer, members, t);
  layer.grouped_end = End();
}

// How much the last row attends to each raw token, see faithful_groups.h: [G, fresh].
std::vector<float> CudaFaithful::LastQueryAttention(const Layer& layer,
                                                    const Tensors& t) {
  const int64_t fresh = End() - layer.grouped_end;
  const at::Tensor positions = at::arange(layer.grouped_end, End(), positions_.options());
  const at::Tensor keys = Gather(t.k, positions.unsqueeze(1).expand({fresh, kv_heads_}));
  const at::Tensor q = ByHead(QueriesOf(t).narrow(0, rows_.rows - 1, 1),
                              PoolingScale(t.scale, options_));  // [G, R, D]
  stats_.work.selection_macs += fresh * t.q.size(1) * t.q.size(2);
  stats_.work.selection_bytes += fresh * kv_heads_ * RowBytes(t.k);
  return ToVector(at::bmm(q, keys.transpose(1, 2)).softmax(-1).mean(1));
}

// Importance of each raw token, see faithful_groups.h: [G, fresh].
std::vector<float> CudaFaithful::TokenImportance(const Layer& layer, const Tensors& t) {
  const int64_t fresh = End() - layer.grouped_end, end = End();
  const std::vector<int64_t> rows =
      SampledRows(rows_.begin, rows_.rows, options_.sampled_queries);
  const at::Tensor positions = at::arange(end, positions_.options());
  const at::Tensor keys = Gather(t.k, positions.unsqueeze(1).expand({end, kv_heads_}));
  const at::Tensor sums =
      at::zeros({kv_heads_, fresh}, positions_.options().dtype(at::kFloat));
  const auto task =
      static_cast<size_t>(std::max<int64_t>(1, kScores / (t.q.size(1) * end)));
  for (size_t first = 0; first < rows.size(); first += task) {
    const auto part = absl::MakeConstSpan(rows).subspan(first, task);
    const auto count = static_cast<int64_t>(part.size());
    const int64_t seen = rows_.begin + part.back() + 1;
    const at::Tensor index = Send(part);
    const at::Tensor q = ByHead(at::index_select(QueriesOf(t), 0, index), t.scale);
    at::Tensor scores = at::bmm(q, keys.narrow(1, 0, seen).transpose(1, 2));
    scores.view({kv_heads_, count, -1, seen})
        .masked_fill_(positions.narrow(0, 0, seen)
                          .view({1, 1, 1, seen})
                          .gt((index + rows_.begin).view({1, count, 1, 1})),
                      -std::numeric_limits<float>::infinity());
    const at::Tensor given = scores.softmax(-1).sum(1);  // [G, seen]
    sums.narrow(1, 0, seen - layer.grouped_end)
        .add_(given.narrow(1, layer.grouped_end, seen - layer.grouped_end));
    for (const int64_t row : part) {
      stats_.work.selection_macs += (rows_.begin + row + 1) * t.q.size(1) * t.q.size(2);
    }
  }
  stats_.work.selection_bytes += end * kv_heads_ * RowBytes(t.k);
  std::vector<float> importance = ToVector(sums);
  for (int64_t g = 0; g < kv_heads_; ++g) {
    MeanOfSeeing(rows, layer.grouped_end - rows_.begin,
                 absl::MakeSpan(importance).subspan(g * fresh, fresh));
  }
  return importance;
}

// members: of each head, equally many; the plans have them already.
void CudaFaithful::AppendGroups(Layer& layer,
                                const std::vector<std::vector<Position>>& members,
                                const Tensors& t) {
  const int64_t m = options_.group_tokens, d = t.q.size(2),
                share = t.q.size(1) / kv_heads_;
  const auto tokens = static_cast<int64_t>(members[0].size());
  const int64_t groups = tokens / m, used = layer.group_count() - groups;
  std::vector<int64_t> positions, queries;  // [G, tokens], [G, groups] in [rows, G]
  for (int64_t g = 0; g < kv_heads_; ++g) {
    positions.insert(positions.end(), members[g].begin(), members[g].end());
    for (const int64_t row : PoolingRows(rows_.begin, members[g], m)) {
      queries.push_back(row * kv_heads_ + g);
    }
  }
  const at::Tensor at = Send(positions).view({kv_heads_, tokens}).t();
  const auto runs = [&](const at::Tensor& side) {
    return Gather(side, at).view({kv_heads_ * groups, m, d});
  };
  const at::Tensor q =
      at::index_select(QueriesOf(t).view({rows_.rows * kv_heads_, share, d}), 0,
                       Send(queries))
          .to(at::kFloat)
          .mul(PoolingScale(t.scale, options_));
  const PooledGroups pooled = PoolGroups(q, runs(t.k), runs(t.v), options_.bias);
  const auto by_group = [&](const at::Tensor& x) {  // [G groups, ...] -> [groups, G, ...]
    return x.view({kv_heads_, groups, -1}).transpose(0, 1);
  };
  AppendRows(by_group(pooled.keys), used, layer.keys);
  AppendRows(by_group(pooled.values), used, layer.values);
  AppendRows(by_group(pooled.bias).squeeze(2), used, layer.bias);
  stats_.work.statistics_macs += kv_heads_ * groups * m * d * (share + 2);
  stats_.work.statistics_bytes +=
      kv_heads_ * groups * (m * 2 * RowBytes(t.k) + (2 * d + 1) * int64_t{sizeof(float)});
}

}  // namespace quire

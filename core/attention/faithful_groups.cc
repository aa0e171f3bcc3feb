#include "core/attention/faithful_groups.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "ATen/TensorOperators.h"
#include "ATen/ops/bmm.h"
#include "ATen/ops/empty.h"
#include "ATen/ops/full.h"
#include "ATen/ops/index_select.h"
#include "ATen/ops/matmul.h"
#include "ATen/ops/xlogy.h"
#include "ATen/ops/zeros.h"
#include "core/base/check.h"

namespace quire {
namespace {

// Sampled rows whose scores exist at a time: memory does not grow with their number.
constexpr size_t kRowsAtATime = 16;

// The queries of some rows, times `scale`: [rows, R, D] float32.
at::Tensor Select(const HeadQueries& queries, absl::Span<const int64_t> rows,
                  float scale) {
  const at::Tensor index = at::empty({static_cast<int64_t>(rows.size())}, at::kLong);
  std::copy(rows.begin(), rows.end(), index.data_ptr<int64_t>());
  return at::index_select(queries.q, 0, index).to(at::kFloat).mul_(scale);
}

// Causal softmax of some rows over keys [n, D] of positions [0, n): [rows, R, n].
at::Tensor Attention(const HeadQueries& queries, absl::Span<const int64_t> rows,
                     const at::Tensor& keys) {
  at::Tensor scores = at::matmul(Select(queries, rows, queries.scale), keys.t());
  const int64_t share = scores.size(1), n = scores.size(2);
  float* row = scores.data_ptr<float>();
  for (const int64_t i : rows) {
    for (int64_t r = 0; r < share; ++r, row += n) {
      std::fill(row + queries.begin + i + 1, row + n,
                -std::numeric_limits<float>::infinity());
    }
  }
  return scores.softmax(-1);
}

std::vector<float> ToVector(const at::Tensor& t) {
  return {t.const_data_ptr<float>(), t.const_data_ptr<float>() + t.numel()};
}

// Of pooling weights [groups, m], what is added to the groups' scores: [groups].
at::Tensor Bias(const at::Tensor& weights, GroupBias bias) {
  const int64_t groups = weights.size(0);
  switch (bias) {
    case GroupBias::kEntropy:
      return -at::xlogy(weights, weights).sum(-1);
    case GroupBias::kLogSize:
      return at::full({groups}, std::log(static_cast<double>(weights.size(1))),
                      weights.options());
    case GroupBias::kNone:
      break;
  }
  return at::zeros({groups}, weights.options());
}

}  // namespace

void AppendRows(const at::Tensor& fresh, int64_t used, at::Tensor& all) {
  const int64_t needed = used + fresh.size(0);
  if (!all.defined() || all.size(0) < needed) {
    std::vector<int64_t> shape = fresh.sizes().vec();
    shape[0] = used == 0 ? needed : std::max(needed, used + used / 4 + 8);
    const at::Tensor room = at::empty(shape, fresh.options());
    if (used > 0) room.narrow(0, 0, used).copy_(all.narrow(0, 0, used));
    all = room;
  }
  all.narrow(0, used, fresh.size(0)).copy_(fresh);
}

PooledGroups PoolGroups(const at::Tensor& q, const at::Tensor& keys,
                        const at::Tensor& values, GroupBias bias) {
  const at::Tensor weights = at::bmm(q, keys.transpose(1, 2)).softmax(-1).mean(1);
  const at::Tensor row = weights.unsqueeze(1);  // [n, 1, m]
  return {at::bmm(row, keys).squeeze(1), at::bmm(row, values).squeeze(1),
          Bias(weights, bias)};
}

std::vector<float> TokenImportance(const FaithfulCache& cache, const HeadQueries& queries,
                                   int64_t sampled, Position begin, AttentionWork& work) {
  const std::vector<int64_t> rows =
      SampledRows(queries.begin, queries.q.size(0), sampled);
  const at::Tensor keys = cache.Keys(0, queries.end());
  const at::Tensor sums = at::zeros({queries.end() - begin}, at::kFloat);
  for (size_t first = 0; first < rows.size(); first += kRowsAtATime) {
    const auto part = absl::MakeConstSpan(rows).subspan(first, kRowsAtATime);
    const int64_t seen = queries.begin + part.back() + 1;
    const at::Tensor given =
        Attention(queries, part, keys.narrow(0, 0, seen)).sum(at::IntArrayRef{0, 1});
    sums.narrow(0, 0, seen - begin).add_(given.narrow(0, begin, seen - begin));
    for (const int64_t row : part) {
      work.selection_macs +=
          (queries.begin + row + 1) * queries.q.size(1) * cache.head_dim();
    }
  }
  work.selection_bytes += queries.end() * cache.row_bytes();
  std::vector<float> importance = ToVector(sums);
  MeanOfSeeing(rows, begin - queries.begin, absl::MakeSpan(importance));
  return importance;
}

std::vector<float> LastQueryAttention(const FaithfulCache& cache,
                                      const HeadQueries& queries,
                                      const FaithfulOptions& options, Position begin,
                                      AttentionWork& work) {
  const int64_t last = queries.q.size(0) - 1;
  const at::Tensor keys = cache.Keys(begin, queries.end());
  const at::Tensor q = Select(queries, {last}, PoolingScale(queries.scale, options))[0];
  work.selection_macs += keys.size(0) * q.size(0) * cache.head_dim();
  work.selection_bytes += keys.size(0) * cache.row_bytes();
  return ToVector(at::matmul(q, keys.t()).softmax(-1).mean(0));
}

void AppendGroups(const FaithfulCache& cache, const HeadQueries& queries,
                  const FaithfulOptions& options, const std::vector<Position>& members,
                  FaithfulLayer::Head& head, AttentionWork& work) {
  const int64_t m = options.group_tokens, d = cache.head_dim();
  const auto groups = static_cast<int64_t>(members.size()) / m;
  if (groups == 0) return;
  const int64_t used = static_cast<int64_t>(head.plan.last.size()) - groups;
  const at::Tensor q = Select(queries, PoolingRows(queries.begin, members, m),
                              PoolingScale(queries.scale, options));
  const FaithfulCache::KeysValues run = cache.Read(members);
  const PooledGroups pooled = PoolGroups(q, run.keys.view({groups, m, d}),
                                         run.values.view({groups, m, d}), options.bias);
  AppendRows(pooled.keys, used, head.keys);
  AppendRows(pooled.values, used, head.values);
  AppendRows(pooled.bias, used, head.bias);
  work.statistics_macs += groups * m * d * (q.size(1) + 2);
  work.statistics_bytes +=
      groups * (m * 2 * cache.row_bytes() + (2 * d + 1) * int64_t{sizeof(float)});
}

}  // namespace quire

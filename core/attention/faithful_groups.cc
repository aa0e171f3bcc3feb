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

float PoolingScale(const HeadQueries& queries, const FaithfulOptions& options) {
  return options.scaled_pooling ? queries.scale : 1.0f;
}

std::vector<float> ToVector(const at::Tensor& t) {
  return {t.const_data_ptr<float>(), t.const_data_ptr<float>() + t.numel()};
}

// Of pooling weights [groups, m], what is added to the groups' scores: [groups].
at::Tensor Bias(const at::Tensor& weights, GroupBias bias) {
  switch (bias) {
    case GroupBias::kEntropy:
      return -at::xlogy(weights, weights).sum(-1);
    case GroupBias::kLogSize:
      return at::full({weights.size(0)}, std::log(static_cast<double>(weights.size(1))),
                      at::kFloat);
    case GroupBias::kNone:
      break;
  }
  return at::zeros({weights.size(0)}, at::kFloat);
}

// Writes `fresh` behind the first `used` rows of `all`, which grows by a quarter at
// least: appending a group now and then costs no more than its own size.
void Append(const at::Tensor& fresh, int64_t used, at::Tensor& all) {
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

// For each run of m members the row, of the step's, whose query pools it.
std::vector<int64_t> PoolingRows(const HeadQueries& queries,
                                 const std::vector<Position>& members, int64_t m) {
  std::vector<int64_t> rows;
  for (size_t i = m - 1; i < members.size(); i += m) {
    rows.push_back(std::max(0, members[i] - queries.begin));
  }
  return rows;
}

}  // namespace

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
  auto unseeing = rows.begin();  // of the queries, those before token i
  for (size_t i = 0; i < importance.size(); ++i) {
    const int64_t row = begin + static_cast<int64_t>(i) - queries.begin;
    while (*unseeing < row) ++unseeing;
    importance[i] /= static_cast<float>(rows.end() - unseeing);
  }
  return importance;
}

std::vector<float> LastQueryAttention(const FaithfulCache& cache,
                                      const HeadQueries& queries,
                                      const FaithfulOptions& options, Position begin,
                                      AttentionWork& work) {
  const int64_t last = queries.q.size(0) - 1;
  const at::Tensor keys = cache.Keys(begin, queries.end());
  const at::Tensor q = Select(queries, {last}, PoolingScale(queries, options))[0];
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
  const at::Tensor q =
      Select(queries, PoolingRows(queries, members, m), PoolingScale(queries, options));
  const FaithfulCache::KeysValues run = cache.Read(members);
  const at::Tensor keys = run.keys.view({groups, m, d});
  const at::Tensor weights = at::bmm(q, keys.transpose(1, 2)).softmax(-1).mean(1);
  const at::Tensor row = weights.unsqueeze(1);  // [groups, 1, m]
  Append(at::bmm(row, keys).squeeze(1), used, head.keys);
  Append(at::bmm(row, run.values.view({groups, m, d})).squeeze(1), used, head.values);
  Append(Bias(weights, options.bias), used, head.bias);
  work.statistics_macs += groups * m * d * (q.size(1) + 2);
  work.statistics_bytes +=
      groups * (m * 2 * cache.row_bytes() + (2 * d + 1) * int64_t{sizeof(float)});
}

}  // namespace quire

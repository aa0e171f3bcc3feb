#include "core/attention/probe_attention.h"

#include <algorithm>
#include <limits>

#include "ATen/TensorOperators.h"
#include "ATen/ops/empty.h"
#include "ATen/ops/index_select.h"
#include "ATen/ops/matmul.h"
#include "ATen/ops/zeros.h"
#include "core/base/check.h"

namespace quire {
namespace {

constexpr float kUnseen = -std::numeric_limits<float>::infinity();

// Probed rows whose scores exist at a time: memory does not grow with the chunk.
constexpr size_t kRowsAtATime = 16;

// Keys of one head at positions [0, n) in float32: [n, D]. Dropped pages hold anything.
at::Tensor HeadKeys(const kernels::PagedKv& kv, absl::Span<const BlockId> blocks,
                    int64_t head, int64_t n) {
  const int64_t used = (n + kv.block_tokens() - 1) / kv.block_tokens();
  const at::Tensor index = at::empty({used}, at::kInt);
  for (int64_t i = 0; i < used; ++i) {
    index.data_ptr<int>()[i] = std::max(0, static_cast<int>(blocks[i]));
  }
  return at::index_select(kv.k.select(1, head), 0, index)
      .to(at::kFloat)
      .view({used * kv.block_tokens(), kv.k.size(3)})
      .narrow(0, 0, n);
}

// q [T, R, D] of one head -> the rows' queries, scaled: [rows, R, D] float32.
at::Tensor RowQueries(const at::Tensor& q, int64_t first_row,
                      absl::Span<const int64_t> rows, float scale) {
  const at::Tensor index = at::empty({static_cast<int64_t>(rows.size())}, at::kLong);
  for (size_t i = 0; i < rows.size(); ++i) {
    index.data_ptr<int64_t>()[i] = first_row + rows[i];
  }
  return at::index_select(q, 0, index).to(at::kFloat).mul_(scale);
}

// scores [rows, R, n]: removes what a row cannot see, later tokens and dropped pages.
void Hide(at::Tensor& scores, const kernels::SequenceRows& s,
          absl::Span<const int64_t> rows, int64_t block_tokens) {
  const int64_t n = scores.size(2);
  for (size_t i = 0; i < rows.size(); ++i) {
    const int64_t seen = s.begin + rows[i] + 1;
    scores[static_cast<int64_t>(i)].narrow(1, seen, n - seen).fill_(kUnseen);
  }
  for (int64_t begin = 0; begin < n; begin += block_tokens) {
    if (s.blocks[begin / block_tokens] != kNoBlock) continue;
    scores.narrow(2, begin, std::min(block_tokens, n - begin)).fill_(kUnseen);
  }
}

void CountWork(const at::Tensor& q, const kernels::PagedKv& kv,
               const kernels::SequenceRows& s, absl::Span<const int64_t> rows,
               AttentionWork& work) {
  const int64_t heads = q.size(0) * q.size(2), d = q.size(3);
  for (const int64_t row : rows) work.audit_macs += (s.begin + row + 1) * heads * d;
  work.audit_bytes += (s.begin + rows.back() + 1) * q.size(0) * d *
                      static_cast<int64_t>(kv.k.element_size());
}

}  // namespace

void ProbeAttention(const at::Tensor& q, const kernels::PagedKv& kv,
                    const kernels::SequenceRows& sequence, absl::Span<const int64_t> rows,
                    float scale, absl::Span<float> attention, AttentionWork& work) {
  if (rows.empty()) return;
  const int64_t n = sequence.begin + rows.back() + 1;
  QUIRE_CHECK(rows.back() < sequence.rows && static_cast<int64_t>(attention.size()) >= n);
  const at::Tensor sums = at::zeros({n}, at::kFloat);
  for (int64_t head = 0; head < q.size(0); ++head) {
    const at::Tensor keys = HeadKeys(kv, sequence.blocks, head, n).t();
    for (size_t first = 0; first < rows.size(); first += kRowsAtATime) {
      const auto part = rows.subspan(first, kRowsAtATime);
      at::Tensor scores =
          at::matmul(RowQueries(q[head], sequence.first_row, part, scale), keys);
      Hide(scores, sequence, part, kv.block_tokens());
      sums.add_(scores.softmax(-1).sum(at::IntArrayRef{0, 1}));
    }
  }
  const float share = 1.0f / static_cast<float>(q.size(0) * q.size(2));
  for (int64_t i = 0; i < n; ++i) attention[i] += sums.const_data_ptr<float>()[i] * share;
  CountWork(q, kv, sequence, rows, work);
}

}  // namespace quire

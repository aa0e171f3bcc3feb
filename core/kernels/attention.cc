#include <algorithm>
#include <cmath>
#include <limits>

#include "ATen/Parallel.h"
#include "ATen/TensorOperators.h"
#include "ATen/ops/_scaled_dot_product_flash_attention_for_cpu.h"
#include "ATen/ops/arange.h"
#include "ATen/ops/empty.h"
#include "ATen/ops/exp.h"
#include "ATen/ops/full.h"
#include "ATen/ops/index_select.h"
#include "ATen/ops/logaddexp.h"
#include "ATen/ops/tensor.h"
#include "ATen/ops/triu.h"
#include "core/base/check.h"
#include "core/kernels/cpu/bf16_kernels.h"
#include "core/kernels/kernels.h"

namespace quire::kernels {
namespace {

// ------------------------------------------------------------- float32, through ATen

// Keys or values of positions [0, n): [1, G, n, D].
at::Tensor Gather(const at::Tensor& cache, absl::Span<const BlockId> blocks, int64_t n) {
  const int64_t tokens = cache.size(2);
  const int64_t used = (n + tokens - 1) / tokens;
  at::Tensor index = at::empty({used}, at::kInt);
  for (int64_t i = 0; i < used; ++i)
    index.data_ptr<int>()[i] = static_cast<int>(blocks[i]);
  return at::index_select(cache, 0, index)
      .permute({1, 0, 2, 3})
      .reshape({1, cache.size(1), used * tokens, cache.size(3)})
      .narrow(2, 0, n);
}

struct State {
  at::Tensor out;  // [1, G, T R, D]
  at::Tensor lse;  // [1, G, T R]
};

State Attend(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
             const std::optional<at::Tensor>& mask, float scale) {
  auto [out, lse] =
      at::_scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, false, mask, scale);
  return {out, lse};
}

// Softmax over the union of two key sets.
at::Tensor Merge(const State& a, const State& b) {
  const at::Tensor both = at::logaddexp(a.lse, b.lse);
  return a.out * at::exp(a.lse - both).unsqueeze(-1) +
         b.out * at::exp(b.lse - both).unsqueeze(-1);
}

// [T R, T]: query head r of token t sees the tokens of this step up to t.
at::Tensor StepMask(int64_t tokens, int64_t share) {
  return at::full({tokens, tokens}, -std::numeric_limits<float>::infinity(), at::kFloat)
      .triu(1)
      .repeat_interleave(share, 0)
      .view({1, 1, tokens * share, tokens});
}

void AttendFloat(const at::Tensor& q, const PagedKv& kv, const SequenceRows& s,
                 float scale, at::Tensor& out) {
  const int64_t kv_heads = q.size(0), share = q.size(2), d = q.size(3);
  const at::Tensor rows =
      q.narrow(1, s.first_row, s.rows).reshape({1, kv_heads, s.rows * share, d});
  const at::Tensor k = Gather(kv.k, s.blocks, s.begin + s.rows);
  const at::Tensor v = Gather(kv.v, s.blocks, s.begin + s.rows);
  const auto step = [&](const at::Tensor& t) { return t.narrow(2, s.begin, s.rows); };
  const auto past = [&](const at::Tensor& t) { return t.narrow(2, 0, s.begin); };
  at::Tensor result;
  if (s.rows == 1) {
    result = Attend(rows, k, v, std::nullopt, scale).out;
  } else {
    const State own = Attend(rows, step(k), step(v), StepMask(s.rows, share), scale);
    result = s.begin == 0
                 ? own.out
                 : Merge(Attend(rows, past(k), past(v), std::nullopt, scale), own);
  }
  out.narrow(0, s.first_row, s.rows)
      .view({s.rows, kv_heads, share, d})
      .copy_(result.view({kv_heads, s.rows, share, d}).transpose(0, 1));
}

// ------------------------------------------------------------- bfloat16, own kernels

bf16::AttentionArgs HeadArgs(const at::Tensor& q, const PagedKv& kv,
                             const SequenceRows& s, int64_t head, float scale,
                             at::Tensor& out) {
  const int64_t row_size = q.size(2) * q.size(3);
  return {
      .q = static_cast<const uint16_t*>(q.const_data_ptr()) +
           (head * q.size(1) + s.first_row) * row_size,
      .k = static_cast<const uint16_t*>(kv.k.const_data_ptr()),
      .v = static_cast<const uint16_t*>(kv.v.const_data_ptr()),
      .blocks = s.blocks.data(),
      .out = static_cast<uint16_t*>(out.data_ptr()) + s.first_row * q.size(0) * row_size,
      .head = head,
      .kv_heads = q.size(0),
      .share = q.size(2),
      .head_dim = q.size(3),
      .block_tokens = kv.block_tokens(),
      .begin = s.begin,
      .scale = scale};
}

// Tokens whose rows one task handles: enough to pay for packing the keys.
constexpr int64_t kRowsPerTask = 384;

void PrefillBf16(const at::Tensor& q, const PagedKv& kv, const SequenceRows& s,
                 float scale, at::Tensor& out) {
  const int64_t rows = s.rows * q.size(2);
  const int64_t tasks_per_head = (rows + kRowsPerTask - 1) / kRowsPerTask;
  // Head by head within a range of rows, so that every thread gets early and late rows.
  at::parallel_for(0, tasks_per_head * q.size(0), 1, [&](int64_t first, int64_t last) {
    std::vector<float> scratch(bf16::PrefillScratchSize(kRowsPerTask, q.size(3)));
    for (int64_t task = first; task < last; ++task) {
      const int64_t begin = task % tasks_per_head * kRowsPerTask;
      bf16::PrefillRows(HeadArgs(q, kv, s, task / tasks_per_head, scale, out), begin,
                        std::min(rows, begin + kRowsPerTask), scratch.data());
    }
  });
}

// Keys of one decode task; long contexts are split so that every thread has work.
constexpr int64_t kKeysPerTask = 512;

// A part of one sequence's only row, for one key/value head.
struct DecodeTask {
  const SequenceRows* sequence;
  int64_t head;
  int64_t part, parts;  // of the sequence's keys
};

std::vector<DecodeTask> DecodeTasks(absl::Span<const SequenceRows> sequences,
                                    int64_t kv_heads) {
  std::vector<DecodeTask> tasks;
  for (const SequenceRows& s : sequences) {
    const int64_t parts = s.begin / kKeysPerTask + 1;
    for (int64_t head = 0; head < kv_heads; ++head) {
      for (int64_t part = 0; part < parts; ++part) {
        tasks.push_back({&s, head, part, parts});
      }
    }
  }
  return tasks;
}

void DecodeBf16(const at::Tensor& q, const PagedKv& kv,
                absl::Span<const SequenceRows> sequences, float scale, at::Tensor& out) {
  const int64_t share = q.size(2), d = q.size(3);
  const std::vector<DecodeTask> tasks = DecodeTasks(sequences, q.size(0));
  const auto count = static_cast<int64_t>(tasks.size());
  std::vector<float> sums(count * share * d), maxima(count * share),
      totals(count * share);
  at::parallel_for(0, count, 1, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      const DecodeTask& task = tasks[i];
      const int64_t keys = task.sequence->begin + 1, key = task.part * kKeysPerTask;
      bf16::DecodeKeys(HeadArgs(q, kv, *task.sequence, task.head, scale, out), key,
                       std::min(keys, key + kKeysPerTask), &sums[i * share * d],
                       &maxima[i * share], &totals[i * share]);
    }
  });
  for (int64_t i = 0; i < count; i += tasks[i].parts) {
    bf16::MergeDecode(HeadArgs(q, kv, *tasks[i].sequence, tasks[i].head, scale, out),
                      tasks[i].parts, &sums[i * share * d], &maxima[i * share],
                      &totals[i * share]);
  }
}

}  // namespace

void DenseAttention(const at::Tensor& q, const PagedKv& kv, const SequenceRows& sequence,
                    float scale, at::Tensor& out) {
  QUIRE_CHECK(q.dim() == 4 && q.is_contiguous() && q.scalar_type() == kv.k.scalar_type());
  if (q.scalar_type() != at::kBFloat16) {
    AttendFloat(q, kv, sequence, scale, out);
  } else if (sequence.rows == 1) {
    DecodeBf16(q, kv, {&sequence, 1}, scale, out);
  } else {
    PrefillBf16(q, kv, sequence, scale, out);
  }
}

void DenseDecode(const at::Tensor& q, const PagedKv& kv,
                 absl::Span<const SequenceRows> sequences, float scale, at::Tensor& out) {
  QUIRE_CHECK(q.dim() == 4 && q.is_contiguous() && q.scalar_type() == kv.k.scalar_type());
  if (q.scalar_type() == at::kBFloat16) {
    return DecodeBf16(q, kv, sequences, scale, out);
  }
  for (const SequenceRows& s : sequences) AttendFloat(q, kv, s, scale, out);
}

at::Tensor DenseAttentionOf(const at::Tensor& q, const PagedKv& kv,
                            const SequenceRows& sequence,
                            absl::Span<const int64_t> tokens, float scale) {
  const auto n = static_cast<int64_t>(tokens.size());
  at::Tensor rows = at::empty({q.size(0), n, q.size(2), q.size(3)}, q.options());
  std::vector<int32_t> positions;
  for (int64_t i = 0; i < n; ++i) {
    rows.select(1, i).copy_(q.select(1, sequence.first_row + tokens[i]));
    positions.push_back(static_cast<int32_t>(sequence.begin + tokens[i]));
  }
  at::Tensor out = at::empty({n, q.size(0) * q.size(2) * q.size(3)}, q.options());
  if (q.scalar_type() != at::kBFloat16) {
    for (int64_t i = 0; i < n; ++i) {
      AttendFloat(rows, kv, {i, 1, positions[i], sequence.blocks}, scale, out);
    }
    return out;
  }
  const SequenceRows all = {0, n, sequence.begin, sequence.blocks};
  at::parallel_for(0, q.size(0), 1, [&](int64_t first, int64_t last) {
    const int64_t count = n * q.size(2);
    std::vector<float> scratch(bf16::PrefillScratchSize(count, q.size(3)));
    for (int64_t head = first; head < last; ++head) {
      bf16::AttentionArgs args = HeadArgs(rows, kv, all, head, scale, out);
      args.positions = positions.data();
      bf16::PrefillRows(args, 0, count, scratch.data());
    }
  });
  return out;
}

AttentionWork DenseWork(const HeadShape& shape, const SequenceRows& sequence,
                        int64_t element_bytes) {
  const int64_t n = sequence.rows, begin = sequence.begin;
  AttentionWork work;
  work.dense_columns = shape.query_heads * (n * (begin + 1) + n * (n - 1) / 2);
  work.dense_macs = work.dense_columns * 2 * shape.head_dim;
  const int64_t share = shape.query_heads / shape.kv_heads;
  const int64_t task = std::max<int64_t>(1, kRowsPerTask / share);  // tokens
  for (int64_t first = 0; first < n; first += task) {
    work.dense_bytes += (begin + std::min(n, first + task)) * shape.kv_heads * 2 *
                        shape.head_dim * element_bytes;
  }
  return work;
}

}  // namespace quire::kernels

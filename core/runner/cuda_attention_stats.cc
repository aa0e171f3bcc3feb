#include "core/runner/cuda_attention_stats.h"

#include <algorithm>

#include "core/attention/step_attention.h"
#include "core/kernels/cuda/refined.h"
#include "core/kernels/cuda/refined_prefill.h"
#include "core/model/cuda_faithful.h"

namespace quire {
namespace {

constexpr int64_t kElementBytes = 2;
constexpr double kFixedPoint = 4294967296.0;  // of the kernels' sums

// What the kernels counted over all layers and heads.
void AddCounts(const int64_t* counts, float eps, AttentionStats& stats) {
  stats.work.columns += counts[0];
  stats.work.expanded_columns += counts[0];
  stats.coverage += static_cast<double>(counts[1]) / kFixedPoint;
  stats.tail_risk += eps * static_cast<double>(counts[2]) / kFixedPoint;
}

AttentionWork DenseWorkOf(const ModelConfig& c, const kernels::SequenceRows& rows) {
  const AttentionWork layer =
      kernels::DenseWork({c.num_heads, c.num_kv_heads, c.head_dim}, rows, kElementBytes);
  AttentionWork work;
  for (int32_t i = 0; i < c.num_layers; ++i) work += layer;
  return work;
}

// What a layer's refined rows read for certain, and the index of their far keys.
AttentionWork NearWork(const ModelConfig& c, const kernels::SequenceRows& rows) {
  const int share = c.num_heads / c.num_kv_heads;
  const int64_t d = c.head_dim, tokens = kernels::cuda::TileTokens(share);
  AttentionWork work;
  for (int64_t at = rows.begin; at < rows.begin + rows.rows;) {
    const int64_t end = std::min(rows.begin + rows.rows, (at / tokens + 1) * tokens);
    const int64_t far =
        (kernels::cuda::TileWindowPage(at, share) - 1) * kernels::cuda::kPageTokens;
    // Row p sees p + 1 keys.
    work.columns += ((at + 1 + end) * (end - at) / 2 - far * (end - at)) * c.num_heads;
    work.attention_bytes += (end - far) * c.num_kv_heads * 2 * d * kElementBytes;
    work.selection_macs += far * (end - at) * c.num_heads * d;
    // Two tiles share the keys that they score, a byte a channel.
    work.selection_bytes += far * c.num_kv_heads * d / 2;
    at = end;
  }
  work.attention_macs = work.columns * 2 * d;
  // Keys are rounded to 8 bits, all of them for each chunk.
  const int64_t keys = (rows.begin + rows.rows) * c.num_kv_heads;
  work.statistics_macs = keys * d;
  work.statistics_bytes = keys * (kElementBytes + 1) * d;
  return work;
}

}  // namespace

AttentionStats DecodeOrDenseStats(const ModelConfig& c, const CudaSequence& s,
                                  const int64_t* counts) {
  const int64_t d = c.head_dim;
  AttentionWork layer = kernels::DenseWork({c.num_heads, c.num_kv_heads, c.head_dim},
                                           s.rows, kElementBytes);
  const bool refined = s.reading == CudaSequence::Reading::kRefinedDecode;
  if (!refined) {
    layer.columns = layer.dense_columns;
    layer.attention_macs = layer.dense_macs;
    layer.attention_bytes = layer.dense_bytes;
  } else {
    const int64_t near = s.rows.begin + 1 - s.far_pages() * kGroupTokens;
    layer.columns = near * c.num_heads;
    layer.attention_macs = layer.columns * 2 * d;
    layer.attention_bytes = near * c.num_kv_heads * 2 * d * kElementBytes;
    layer.selection_macs = s.far_pages() * (kGroupTokens + 1) * c.num_heads * d;
    layer.selection_bytes =
        s.far_pages() * c.num_kv_heads * kernels::cuda::IndexPageBytes(c.head_dim);
  }
  AttentionStats stats;
  for (int32_t i = 0; i < c.num_layers; ++i) stats.work += layer;
  if (!refined) return stats;
  const int64_t share = c.num_heads / c.num_kv_heads;
  stats.work.attention_macs += counts[0] * 2 * d;
  stats.work.attention_bytes += counts[0] / share * 2 * d * kElementBytes;
  stats.sparse_rows = int64_t{c.num_layers} * c.num_heads;
  AddCounts(counts, s.eps, stats);
  return stats;
}

AttentionStats RefinedPromptStats(const ModelConfig& c, const CudaSequence& s,
                                  const int64_t* counts) {
  const int64_t d = c.head_dim, dense_rows = s.rows.rows - s.refined_rows;
  const kernels::HeadShape shape = {c.num_heads, c.num_kv_heads, c.head_dim};
  kernels::SequenceRows dense = s.rows, refined = s.rows;
  dense.rows = dense_rows;
  refined.begin += static_cast<Position>(dense_rows);
  refined.rows = s.refined_rows;
  AttentionWork layer = NearWork(c, refined);
  const AttentionWork read = kernels::DenseWork(shape, dense, kElementBytes);
  const AttentionWork whole = kernels::DenseWork(shape, s.rows, kElementBytes);
  layer.columns += read.dense_columns;
  layer.attention_macs += read.dense_macs;
  layer.attention_bytes += read.dense_bytes;
  layer.dense_columns = whole.dense_columns;
  layer.dense_macs = whole.dense_macs;
  layer.dense_bytes = whole.dense_bytes;
  AttentionStats stats;
  for (int32_t i = 0; i < c.num_layers; ++i) stats.work += layer;
  const int64_t rows = kernels::cuda::TileTokens(c.num_heads / c.num_kv_heads) *
                       (c.num_heads / c.num_kv_heads);
  stats.work.attention_macs += counts[0] * 2 * d;
  stats.work.attention_bytes += counts[0] / rows * 2 * d * kElementBytes;
  stats.sparse_rows = s.refined_rows * c.num_layers * c.num_heads;
  AddCounts(counts, s.eps, stats);
  return stats;
}

std::vector<int64_t> AuditedRows(const StepItem& item, int64_t first) {
  std::vector<int64_t> rows;
  if (item.attention.max_error >= 1) return rows;
  for (int64_t i = first; i < static_cast<int64_t>(item.tokens.size()); ++i) {
    if (IsAudited(item.begin + static_cast<Position>(i))) rows.push_back(i);
  }
  return rows;
}

AttentionStats FaithfulStats(const ModelConfig& config, const CudaSequence& sequence,
                             double grouped_share) {
  AttentionStats stats = sequence.faithful->stats();
  stats.work += DenseWorkOf(config, sequence.rows);
  stats.coverage -= grouped_share;
  return stats;
}

void AddAudits(const ModelConfig& config, const CudaSequence& sequence,
               const float* errors, AttentionStats& stats) {
  for (const int64_t row : sequence.audited) {
    const double error = static_cast<double>(*errors++) / config.num_layers;
    ++stats.audits;
    stats.audit_error += error;
    stats.max_audit_error = std::max(stats.max_audit_error, error);
    const kernels::SequenceRows& s = sequence.rows;
    const AttentionWork work = DenseWorkOf(
        config, {s.first_row + row, 1, s.begin + static_cast<Position>(row), s.blocks});
    stats.work.audit_macs += work.dense_macs;
    stats.work.audit_bytes += work.dense_bytes;
  }
}

}  // namespace quire

#include "core/runner/cuda_attention_stats.h"

#include <algorithm>

#include "core/attention/step_attention.h"
#include "core/model/cuda_faithful.h"

namespace quire {
namespace {

constexpr int64_t kElementBytes = 2;

AttentionWork DenseWorkOf(const ModelConfig& c, const kernels::SequenceRows& rows) {
  const AttentionWork layer =
      kernels::DenseWork({c.num_heads, c.num_kv_heads, c.head_dim}, rows, kElementBytes);
  AttentionWork work;
  for (int32_t i = 0; i < c.num_layers; ++i) work += layer;
  return work;
}

}  // namespace

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

#include "core/dga/attention_stats.h"

namespace quire {

AttentionWork& AttentionWork::operator+=(const AttentionWork& o) {
  attention_macs += o.attention_macs;
  selection_macs += o.selection_macs;
  statistics_macs += o.statistics_macs;
  audit_macs += o.audit_macs;
  dense_macs += o.dense_macs;
  attention_bytes += o.attention_bytes;
  selection_bytes += o.selection_bytes;
  statistics_bytes += o.statistics_bytes;
  audit_bytes += o.audit_bytes;
  dense_bytes += o.dense_bytes;
  columns += o.columns;
  dense_columns += o.dense_columns;
  expanded_columns += o.expanded_columns;
  return *this;
}

AttentionStats& AttentionStats::operator+=(const AttentionStats& o) {
  work += o.work;
  seconds += o.seconds;
  selection_seconds += o.selection_seconds;
  sparse_rows += o.sparse_rows;
  coverage += o.coverage;
  tail_risk += o.tail_risk;
  audits += o.audits;
  audit_error += o.audit_error;
  max_audit_error = std::max(max_audit_error, o.max_audit_error);
  return *this;
}

AttentionReceipt& AttentionReceipt::operator+=(const AttentionReceipt& o) {
  mode = o.mode;
  eps = o.eps;
  eps_lowered += o.eps_lowered;
  fell_back |= o.fell_back;
  prefill += o.prefill;
  decode += o.decode;
  kv_bytes_dropped += o.kv_bytes_dropped;
  return *this;
}

}  // namespace quire

#pragma once

#include <algorithm>
#include <cstdint>

#include "core/dga/attention_options.h"

namespace quire {

// Work of the attention of some rows, counted where it is done, all layers together. A
// column is one key read by one query head; it costs 2 D multiply-adds (score and value).
struct AttentionWork {
  // Multiply-adds by part: reading keys and values; scoring the index and the groups'
  // means to choose what is read; building groups and index; recomputing audited rows.
  int64_t attention_macs = 0;
  int64_t selection_macs = 0;
  int64_t statistics_macs = 0;
  int64_t audit_macs = 0;
  int64_t dense_macs = 0;  // what dense attention of the same rows takes

  // Bytes of keys, values and group data that tasks fetch (each task once; a task is a
  // run of rows that share what it fetches), by the same parts.
  int64_t attention_bytes = 0;
  int64_t selection_bytes = 0;
  int64_t statistics_bytes = 0;
  int64_t audit_bytes = 0;
  int64_t dense_bytes = 0;

  int64_t columns = 0;
  int64_t dense_columns = 0;
  // Of the columns, those of far keys in sparse rows: read one by one, where the rest of
  // the far text is only estimated.
  int64_t expanded_columns = 0;

  int64_t executed_macs() const {
    return attention_macs + selection_macs + statistics_macs + audit_macs;
  }
  int64_t executed_bytes() const {
    return attention_bytes + selection_bytes + statistics_bytes + audit_bytes;
  }
  AttentionWork& operator+=(const AttentionWork& other);
  friend bool operator==(const AttentionWork&, const AttentionWork&) = default;
};

// Work, time and error of the attention of some rows. Sums, so that parts can be added.
struct AttentionStats {
  AttentionWork work;
  double seconds = 0;            // wall time of attention, selection included
  double selection_seconds = 0;  // of these, choosing what to read

  // Over sparse rows: one for each token, query head and layer.
  int64_t sparse_rows = 0;
  double coverage = 0;   // sum of the share of attention that was read for certain
  double tail_risk = 0;  // sum of the expected standard error, see AttentionOptions::eps

  // Audited tokens: their attention recomputed densely. Error: |o - dense| / |dense|
  // over all heads of a layer, mean over layers.
  int64_t audits = 0;
  double audit_error = 0;      // sum
  double max_audit_error = 0;  // of one token

  AttentionStats& operator+=(const AttentionStats& other);
};

// What a request's attention took and how it erred: the part of the receipt that the
// engine knows.
struct AttentionReceipt {
  AttentionMode mode = AttentionMode::kDense;  // as asked for
  float eps = 0;                               // at the end
  int32_t eps_lowered = 0;                     // times, because of max_error
  bool fell_back = false;                      // to dense, because of max_error
  AttentionStats prefill;
  AttentionStats decode;
  int64_t kv_bytes_dropped = 0;  // compact: keys and values given back

  // Adds another pass of the same request.
  AttentionReceipt& operator+=(const AttentionReceipt& other);
};

}  // namespace quire

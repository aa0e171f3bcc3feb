#pragma once

#include <cstdint>

#include "core/dga/attention_options.h"

namespace quire {

// What attention is thought to read, before it is computed: columns of one query head in
// one layer, summed over rows.
struct ExpectedColumns {
  double read = 0;     // 2 D multiply-adds each, D channels
  double scanned = 0;  // looked at by the 4-bit index to choose; D multiply-adds each
  friend bool operator==(const ExpectedColumns&, const ExpectedColumns&) = default;
};

// Columns that a refined row reads, however many it sees: the first and last tokens for
// certain, and of those between as many as are drawn. A fit to the means of
// docs/dga-findings.md ("columns" times half the tokens): 422 at 8K, 467 at 16K and 491
// at 30K tokens with eps .04; 598 with .03 and 360 with .056 at 16K. REQUIRES: eps > 0.
double RefinedColumns(float eps);

// Of the rows [begin, begin + rows). Refined: as above, from SparseFrom() on. Faithful:
// the focal tokens and a column for each group; what chooses them is not counted. Linear
// in rows. REQUIRES: options valid.
ExpectedColumns ExpectColumns(const AttentionOptions& options, int64_t begin,
                              int64_t rows);

}  // namespace quire

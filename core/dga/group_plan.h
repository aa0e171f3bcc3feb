#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "core/base/types.h"
#include "core/dga/attention_options.h"

namespace quire {

// Which of one key/value head's first tokens are focal and which are in groups, under
// Dynamic Group Attention as published (dga.md section 1): integers only. Groups are runs
// of m tokens among the tokens that are not focal, in position order, so the ends of the
// runs say it all: group g has the tokens in (last[g - 1], last[g]] that are not focal.
struct GroupPlan {
  std::vector<Position> focal;  // ascending
  std::vector<Position> last;   // last member of each group, ascending
};

// What the row at some position reads: every token at or before it exactly once.
struct RowView {
  int64_t focal = 0;       // of the focal tokens, the first so many: those not after it
  int64_t groups = 0;      // of the groups, the first so many: their last member is not
                           // after it
  Position raw_begin = 0;  // and every token in [raw_begin, row] that is not focal
};
RowView ViewOf(const GroupPlan& plan, Position row);

// Tokens in [begin, end) that are not focal, ascending.
std::vector<Position> NotFocal(const GroupPlan& plan, Position begin, Position end);

// r(L) = max(gamma L, min_focal_tokens), but no more than L: how many of the first L
// tokens are focal.
int64_t FocalTarget(const FaithfulOptions& options, int64_t tokens);

// m' = floor(1.1 m): so many raw tokens are split into focal ones and a group.
int64_t RegroupTokens(const FaithfulOptions& options);

// How many of the `fresh` tokens that end at `end` become focal, when `focal` are
// already; what is left is a multiple of m. After a prompt's chunk: what r(L) lacks, and
// the remainder of the others modulo m. While decoding, fresh >= m: all but m, as
// published; all while r(L) asks for every token (short texts, gamma = 1).
int64_t FocalOfChunk(const FaithfulOptions& options, int64_t end, int64_t focal,
                     int64_t fresh);
int64_t FocalOfDecode(const FaithfulOptions& options, int64_t end, int64_t fresh);

// Appends tokens [begin, begin + scores.size()) to the plan: the `focal` tokens of
// highest score are focal (of equals the earlier, NaN last), the others are cut in runs
// of m in position order. Returns those others; their number is a multiple of m.
std::vector<Position> AppendTokens(Position begin, absl::Span<const float> scores,
                                   int64_t focal, int32_t m, GroupPlan& plan);

// Which rows of a chunk of `rows`, the first at position `begin`, importance is made of;
// ascending: all if they are no more than `count`. Otherwise the most recent ceil(count /
// 2), and of the rest those whose hash of the position is lowest: reproducible, and
// independent of everything else.
std::vector<int64_t> SampledRows(Position begin, int64_t rows, int64_t count);

}  // namespace quire

#pragma once

#include <cstdint>
#include <limits>
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

// Memory of a key/value head's focal tokens and groups in one layer, on a device, when a
// sequence has so many tokens: a key, a value (head_dim channels each) and a bias a
// group, float32; 8 bytes a focal token; a quarter more for room to grow.
int64_t GroupBytes(const FaithfulOptions& options, int64_t tokens, int64_t head_dim);

// m' = floor(1.1 m): so many raw tokens are split into focal ones and a group.
int64_t RegroupTokens(const FaithfulOptions& options);

// How many of the `fresh` tokens that end at `end` become focal, when `focal` are
// already; what is left is a multiple of m. After a prompt's chunk: what r(L) lacks, and
// the remainder of the others modulo m. While decoding, fresh >= m: all but m, as
// published; all while r(L) asks for every token (short texts, gamma = 1).
int64_t FocalOfChunk(const FaithfulOptions& options, int64_t end, int64_t focal,
                     int64_t fresh);
int64_t FocalOfDecode(const FaithfulOptions& options, int64_t end, int64_t fresh);

// How the raw tokens [grouped_end, end) are split, when `focal` tokens are focal already:
// after a step of `rows` rows, or before its rows are read.
struct RawSplit {
  // By the attention of the last query alone: m' tokens and a single row. False: by
  // importance; so are more raw tokens before a single row: a prompt's, of steps that
  // were not seen.
  bool by_last_query = false;
  int64_t fresh = 0;
  int64_t focal = 0;  // of the fresh ones
  // All or none become focal, whatever they score.
  bool needs_scores() const { return focal > 0 && focal < fresh; }
};
RawSplit SplitOf(const FaithfulOptions& options, Position grouped_end, Position end,
                 int64_t rows, int64_t focal);

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

// Makes means of sums: sums[i] is what the sampled `rows` (ascending) give to row
// first_row + i, which those before it do not see. There is a sampled row at or after
// each.
void MeanOfSeeing(absl::Span<const int64_t> rows, int64_t first_row,
                  absl::Span<float> sums);

// For each run of m members the row, of a step's whose first is at position `begin`,
// whose query pools it: its last member's, or the first row if that is before the step.
std::vector<int64_t> PoolingRows(Position begin, absl::Span<const Position> members,
                                 int64_t m);

// A token that rows read raw: those at positions [position, until).
struct RawColumn {
  Position position = 0;
  Position until = 0;  // the last member of the token's group, or never: kReadForever
};
inline constexpr Position kReadForever = std::numeric_limits<Position>::max();
// What some of the rows at positions [begin, end) read raw; ascending.
std::vector<RawColumn> RawColumns(const GroupPlan& plan, Position begin, Position end);

// What the rows at positions [begin, end) read, summed over them.
struct PlanReads {
  int64_t columns = 0;
  int64_t focal = 0;         // of the columns, focal ones of rows that also read groups
  int64_t grouped_rows = 0;  // rows that read groups
};
// raw: of the same rows.
PlanReads ReadsOf(const GroupPlan& plan, absl::Span<const RawColumn> raw, Position begin,
                  Position end);

}  // namespace quire

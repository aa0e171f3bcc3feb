#pragma once

#include <cstdint>
#include <vector>

#include "ATen/core/Tensor.h"
#include "absl/types/span.h"
#include "core/base/types.h"
#include "core/dga/attention_options.h"
#include "core/dga/attention_stats.h"
#include "core/kernels/kernels.h"

// Refined attention: a row reads the first page (attention sinks) and a window of pages
// exactly, and of the far pages between them the tokens that an index says it needs.
//
// With p a far token's share of a head's attention as the index estimates it, the largest
// over the R query heads that share the key, the token is read with probability
// P = min(1, p / eps^2) and its score raised by -log P: numerator and denominator of the
// softmax are estimated without bias (importance sampling; vAttention, arXiv
// 2510.05688, samples the rest uniformly). The choice of a row depends on nothing but the
// tokens it sees, so neither chunks nor other sequences change it, and nothing of the
// future leaks. Draws come from a fixed table, entered by layer, head and position.
namespace quire::kernels {

// One layer's groups: every page of kGroupTokens keys is one. A page is written down
// once, when it is complete, and lives until its block gets a new first token.
struct PageIndex {
  // Key j of a page is approximately mean + scale_j * (code_j - 8), code_j in [1, 16) for
  // each channel. Bytes of a page: [D/8][4][16][4]; byte (c, v, k, i) holds channel
  // 4 c + i of key 16 v + k in its low half and channel 4 c + i + D/2 in its high half.
  at::Tensor codes;            // [num_blocks, G, kGroupTokens D / 2] uint8
  at::Tensor scales;           // [num_blocks, G, kGroupTokens] float32
  at::Tensor key_means;        // [num_blocks, G, D] float32
  at::Tensor value_means;      // [num_blocks, G, D] float32
  std::vector<uint8_t> built;  // [num_blocks]

  // Memory is taken from the system when a page is written.
  static PageIndex Make(int64_t num_blocks, int64_t kv_heads, int64_t head_dim);
  int64_t bytes() const;
};

// Writes the index of pages that are complete and not built yet. Adds to the statistics
// part of `work`.
void IndexPages(const PagedKv& kv, absl::Span<const BlockId> pages, PageIndex& index,
                AttentionWork& work);

// Pages whose keys and values are gone (compact mode): their means stand for them.
struct DroppedPages {
  std::vector<int32_t> pages;  // indices into the sequence's blocks, ascending
  at::Tensor keys, values;     // [pages, G, D] of the compute type
};

// The means of pages that are indexed; blocks[i] is page pages[i].
DroppedPages MeansOf(const PageIndex& index, std::vector<int32_t> pages,
                     absl::Span<const BlockId> blocks, at::ScalarType type);

// Most query heads that may share a key/value head.
inline constexpr int64_t kMaxRefinedShare = 24;

// For tests: what a row read.
struct ReadColumn {
  int64_t head = 0;  // key/value head
  Position row = 0;
  Position key = 0;       // of a mean: the page's first token
  bool mean = false;      // of what is left of a page
  float log2_weight = 0;  // 0: for certain
};

struct RefinedOptions {
  float scale = 1;
  float eps = 0;
  TailEstimate tail = TailEstimate::kSampled;
  KeyIndex index = KeyIndex::kFourBit;
  int32_t layer = 0;
  const DroppedPages* dropped = nullptr;
  // Wanted for compact mode: [G, pages of the sequence], added to. The index's estimate
  // of a page's share of a row's attention, the largest over the R query heads, summed
  // over the rows at `page_shares_from` and after.
  float* page_shares = nullptr;
  Position page_shares_from = 0;
  std::vector<ReadColumn>* record = nullptr;  // far columns; only with one thread
  int64_t* head_columns = nullptr;  // [G], added to: AttentionWork::columns of each head
};

// Rows of one sequence that all see more than kSinkTokens + kWindowTokens tokens. The far
// pages are indexed. q [G, T, R, D] of the step; writes rows [first_row, first_row +
// rows) of out [T, H D]. Adds all but seconds, statistics and audits to `stats`.
void RefinedAttention(const at::Tensor& q, const PagedKv& kv, const PageIndex& index,
                      const SequenceRows& sequence, const RefinedOptions& options,
                      at::Tensor& out, AttentionStats& stats);

// First page of the window of the row at `position`; pages [1, it) are far.
constexpr int64_t WindowPage(int64_t position) {
  const int64_t page = (position - kWindowTokens) / kGroupTokens;
  return page > 1 ? page : 1;
}

// A table of draws u in (0, 1], as 128 log2 u rounded: [kDraws + kDrawPadding]. The first
// kDrawPadding entries stand at the end again, so that 64 may be read from any place.
inline constexpr int64_t kDraws = 32768;
inline constexpr int64_t kDrawPadding = 64;
const int16_t* DrawTable();
// Where the row's draws begin; the draw of a key is `start + key`, modulo kDraws.
uint32_t DrawStart(int32_t layer, int64_t head, int64_t position);

}  // namespace quire::kernels

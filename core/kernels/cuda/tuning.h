#pragma once

#include <cstdint>

// Numbers of the kernels that measuring on an H200 chose (docs/gpu.md), in one table.
// None of them changes what is computed beyond the order of sums, but where it says so.
namespace quire::kernels::cuda::tuning {

// linear_rows.cu: warps of a block, that divide a row of the weight; loads of 16 bytes
// that a lane has under way, by how many halves of 8 rows and parts of the weight it
// sums.
inline constexpr int kLinearWarps = 4;
constexpr int LinearLoads(int halves, int parts) {
  return halves == 1 && parts == 1 ? 8 : 4;
}
// Of a multiprocessor's memory: 34 KB for its four blocks' sums.
inline constexpr int kLinearSharedPercent = 15;

// linear_stream.cu: bytes of a weight from which it is faster. Warps of a block that
// multiply, and channels of a stage: below 1,024 the copies, one for each row of the
// weight, are too short. A stage is 66 KB; there is room for three beside the sums of 8
// rows of x.
inline constexpr int64_t kStreamedBytes = 6 << 20;
inline constexpr int kStreamWarps = 8;
inline constexpr int kStreamChannels = 1024;
// Of multiprocessors, that must have a block.
inline constexpr int kStreamBusyPercent = 95;

// work_line.cuh: pages more than the others' that a block may have rather than parts of
// two heads, beside a sixteenth: what is done for a head at least takes as long as 30.
inline constexpr int kSparePages = 8;

// refined_decode.cu: warps of a block that score, and warps that read meanwhile what is
// read for certain; 128 registers a thread remain. Stages of a page's index in a scoring
// warp's ring, and bytes of a block's scores that stay in shared memory: with stages of
// what was drawn for all warps and 32 KB for what is read for certain 225 KB at 128
// channels, a block a multiprocessor.
inline constexpr int kScoreWarps = 12;
inline constexpr int kCertainWarps = 4;
constexpr int IndexStages(int dim) { return dim == 128 ? 2 : 4; }
inline constexpr int kScoreBytes = 65536;
// Pages that are drawn from together, by the heads that scores have places for. (With 4
// heads 8 are up to .2 us faster when nothing but this kernel runs; in steps of
// quire-135m, in which its code is not at hand, they were 2 us slower.)
constexpr int PagesTogether(int heads) { return heads < 4 ? 8 : 4; }

// refined_merge.cuh: blocks that only merge, if they have a warp for each piece of a
// query head, and blocks of a launch from which they can be spared.
inline constexpr int kMergeBlocks = 4;
inline constexpr int kFewBlocks = 64;

// prefill_choose.cu: pages of a stage and stages of the ring, 64 KB at 128 channels, so
// that two blocks of 96 KB fit a multiprocessor.
inline constexpr int kChooseStages = 4;
inline constexpr int kChoosePages = 2;
// Sums of shares are brought up to date after 1, 2, 4 ... stages, then after so many; one
// page in so many counts for keys that are not sure to be read (its log2 below). Both
// move probabilities, not what is expected.
inline constexpr int kUpdateStages = 32;
inline constexpr uint32_t kSampledPages = 16;
inline constexpr float kSampledLog2 = 4;

// prefill_read.cu: stages of 64 keys and values, 64 KB at 128 channels beside 32 KB of
// queries: two blocks of 98 KB a multiprocessor.
inline constexpr int kReadStages = 2;

// prefill_workspace.cuh: most keys of one of a tile's four lists; a tile that wants more
// reads all of its far keys. 8 bytes each of every tile of a chunk are kept for them.
inline constexpr int64_t kMaxListed = 4096;

// sample_select.cuh: tokens of a row that fit the list in shared memory, 32 KB; a choice
// among more reads the row again for each digit.
inline constexpr int kSelectListed = 4096;
// So many at most are compared with each other instead of digit by digit.
inline constexpr int kSelectCompared = 128;
// Tokens of a row that a block of a cluster has at least.
inline constexpr int kSelectSlice = 4096;

}  // namespace quire::kernels::cuda::tuning

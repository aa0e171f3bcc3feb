#pragma once

#include "core/kernels/cuda/refined_workspace.cuh"

// RefinedDecode's second half: keys are drawn by their scores and read exactly, a warp
// for itself.
namespace quire::kernels::cuda {

// What a warp drew and has not read yet.
struct DrawnList {
  static constexpr int kSize = 320;
  int slot[kSize];     // of the key in the cache, of one head
  __half bias[kSize];  // log2 of one over its probability
};

// A key or value towards the L2, in lines.
template <int kDim>
__device__ inline void PrefetchRow(const Bf16* row) {
#pragma unroll
  for (int i = 0; i < kDim; i += 64) {
    asm volatile("prefetch.global.L2 [%0];\n" ::"l"(row + i));
  }
}

// Draws from a warp's units of a segment and reads what it drew. kRow: heads of a
// ScoreStore.
template <int kDim, int kRow>
class DrawReader {
 public:
  static constexpr int kStages = tuning::DrawnStages(kDim);
  static constexpr int kRingBytes = kStages * Ring<kDim>::kStageBytes;

  __device__ DrawReader(const RefinedDecodeArgs& a, const Segment& s,
                        const ScoreStore<kRow>& store, char* ring, DrawnList& list)
      : a_(a),
        s_(s),
        store_(store),
        ring_(SharedAddress(ring)),
        list_(list),
        lane_(threadIdx.x % kWarp),
        last_(s.begin + s.last),
        pages_(a.far_pages + a.first_far_page[s.sequence] - s.begin),
        start_(a.draw_starts[s.index]),
        to_chance_(-a.log2_tau[s.sequence]) {}

  // unit: the warp's first of the segment. log_sums [kRow / 2]: log2 of the whole
  // softmax's sums. Returns how many keys it read.
  __device__ int Run(int unit, const __half2* log_sums, Accumulator<kDim, 1>& acc) {
#pragma unroll
    for (int i = 0; i < Layout::kPairs; ++i) log_sums_[i] = log_sums[i];
    int read = 0;
#pragma unroll 1
    while (unit < last_) {
      drawn_ = 0;
#pragma unroll 1
      while (unit < last_ && drawn_ <= DrawnList::kSize - kTogether * kPageTokens) {
        DrawFrom(unit);
        unit += kTogether * kDrawWarps;
      }
      __syncwarp();
      ReadDrawn(acc);
      read += drawn_;
    }
    return read;
  }

 private:
  using Layout = ScoreLayout<kRow>;
  // Pages whose scores and draws are asked for together.
  static constexpr int kTogether = tuning::PagesTogether(kRow);
  static_assert(DrawnList::kSize >= kTogether * kPageTokens);

  // Of a page: the lane's two keys, of which Key says where they are, with all heads.
  struct Page {
    uint2 heads[Layout::kPairs];  // of two keys, two heads
    short2 draw;
    int block;
  };
  // Lanes that have the same keys' scores of different heads divide these keys: lane l
  // takes those of the Pair(l)-th of their tiles.
  __device__ int Key(int i) const {
    const int tile = Layout::kTiles * Layout::Pair(lane_) + Layout::Tile(lane_);
    return tile * 16 + 8 * i + lane_ / 4;
  }

  __device__ void DrawFrom(int unit) {
    Page pages[kTogether];
#pragma unroll
    for (int i = 0; i < kTogether; ++i) Load(unit + i * kDrawWarps, pages[i]);
#pragma unroll
    for (int i = 0; i < kTogether; ++i) {
      if (unit + i * kDrawWarps < last_) Draw(pages[i]);
    }
  }

  __device__ void Load(int unit, Page& page) const {
    if (unit >= last_) return;
    // Far page 0 is page 1.
    const int position = start_ + (unit - s_.begin + 1) * kPageTokens;
    page.draw.x = a_.draws[(position + Key(0)) % kRefinedDraws];
    page.draw.y = a_.draws[(position + Key(1)) % kRefinedDraws];
    page.block = pages_[unit];
    const int first = lane_ - Layout::Pair(lane_);  // of these lanes
    const auto* const from = reinterpret_cast<const uint2*>(store_.Of(unit)) +
                             first * Layout::kPairs + Layout::Pair(lane_);
#pragma unroll
    for (int p = 0; p < Layout::kPairs; ++p) page.heads[p] = from[p * Layout::kPairs];
  }

  __device__ void Draw(const Page& page) {
    const int first = (page.block * a_.near.kv_heads + s_.head) * kPageTokens;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      // In units of 2^-7 of log2, as the draws are.
      const float chance = 128 * (LargestShare(page, i) + to_chance_);
      const bool taken = chance >= 0 || chance > (i == 0 ? page.draw.x : page.draw.y);
      const unsigned mask = __ballot_sync(kAll, taken);
      if (taken) {
        const int at = drawn_ + __popc(mask & ((1u << lane_) - 1));
        const int slot = first + Key(i);
        list_.slot[at] = slot;
        // Draws are rounded to whole numbers.
        list_.bias[at] = __float2half(chance >= 0 ? 0.0f : (0.5f - ceilf(chance)) / 128);
        PrefetchRow<kDim>(a_.near.k + static_cast<int64_t>(slot) * kDim);
        PrefetchRow<kDim>(a_.near.v + static_cast<int64_t>(slot) * kDim);
      }
      drawn_ += __popc(mask);
    }
  }

  // Of the lane's key i, of a head's softmax, as log2.
  __device__ float LargestShare(const Page& page, int i) const {
    __half2 share = __half2half2(__ushort_as_half(0xfc00));  // -infinity
#pragma unroll
    for (int p = 0; p < Layout::kPairs; ++p) {
      const uint32_t bits = i == 0 ? page.heads[p].x : page.heads[p].y;
      const __half2 score = *reinterpret_cast<const __half2*>(&bits);
      share = __hmax2(share, __hsub2(score, log_sums_[p]));
    }
    const float2 both = __half22float2(share);
    return fmaxf(both.x, both.y);
  }

  __device__ void ReadDrawn(Accumulator<kDim, 1>& acc) const {
    if (drawn_ == 0) return;
#pragma unroll
    for (int s = 0; s < kStages; ++s) Issue(s * kSlice);
    const Tile<kDim, 1> tile(Queries(a_, s_), Share(a_), a_.near.scale);
#pragma unroll 1
    for (int first = 0; first < drawn_; first += kSlice) {
      WaitForCopies<kStages - 1>();
      __syncwarp();
      const int left = drawn_ - first;
      const __half* const bias = list_.bias + first;
      tile.Attend(
          Stage(first),
          [bias, left](int row) {
            return row < left ? __half2float(bias[row]) : -INFINITY;
          },
          acc);
      __syncwarp();  // before the stage is filled again
      Issue(first + kStages * kSlice);
    }
    __syncwarp();  // before the list is
  }

  __device__ uint32_t Stage(int entry) const {
    return ring_ + entry / kSlice % kStages * Ring<kDim>::kStageBytes;
  }

  __device__ void Issue(int first) const {
    if (first < drawn_) {
      const uint32_t to = Stage(first);
      constexpr int kChunks = kDim / 8;
#pragma unroll
      for (int i = 0; i < kSlice * kChunks / kWarp; ++i) {
        const int index = i * kWarp + lane_;
        const int row = index / kChunks, chunk = index % kChunks;
        const bool valid = first + row < drawn_;
        const int64_t slot = valid ? list_.slot[first + row] : 0;
        const int64_t at = slot * kDim + chunk * 8;
        CopyAsync16(Ring<kDim>::Chunk(to, row, chunk), a_.near.k + at, valid);
        CopyAsync16(Ring<kDim>::Chunk(to + Ring<kDim>::kSideBytes, row, chunk),
                    a_.near.v + at, valid);
      }
    }
    CommitCopies();  // an empty group, too, keeps the count
  }

  const RefinedDecodeArgs& a_;
  const Segment& s_;
  const ScoreStore<kRow>& store_;
  const uint32_t ring_;
  DrawnList& list_;
  const int lane_;
  const int last_;
  const int32_t* const pages_;  // of units
  const int start_;
  const float to_chance_;
  __half2 log_sums_[Layout::kPairs];
  int drawn_ = 0;  // entries of the list
};

// Slices of the keys of a segment that are read for certain, every kCertainWarps-th from
// the warp's on.
template <int kDim>
__device__ inline void ReadCertain(const RefinedDecodeArgs& a, const Segment& s, int warp,
                                   uint32_t stage, Accumulator<kDim, 1>& acc) {
  constexpr int kSlicesPerPage = kPageTokens / kSlice;
  constexpr int kChunks = kDim / 8;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int length = a.near.lengths[s.sequence];
  const int32_t* const pages = a.near.pages + a.near.first_page[s.sequence];
  const int end = min(s.last * kSlicesPerPage, (length + kSlice - 1) / kSlice);
  int slice = s.first * kSlicesPerPage + warp;
  if (slice >= end) return;
  const Tile<kDim, 1> tile(Queries(a, s), Share(a), a.near.scale);
#pragma unroll 1
  for (; slice < end; slice += kCertainWarps) {
    const int first = slice * kSlice;
    const int64_t slot =
        (static_cast<int64_t>(pages[slice / kSlicesPerPage]) * a.near.kv_heads + s.head) *
            kPageTokens +
        first % kPageTokens;
#pragma unroll
    for (int i = 0; i < kSlice * kChunks / kWarp; ++i) {
      const int index = i * kWarp + lane;
      const int row = index / kChunks, chunk = index % kChunks;
      const bool valid = first + row < length;
      const int64_t at = slot * kDim + index * 8;
      CopyAsync16(Ring<kDim>::Chunk(stage, row, chunk), a.near.k + at, valid);
      CopyAsync16(Ring<kDim>::Chunk(stage + Ring<kDim>::kSideBytes, row, chunk),
                  a.near.v + at, valid);
    }
    CommitCopies();
    WaitForCopies<0>();
    __syncwarp();
    const int left = length - first;
    tile.Attend(
        stage, [left](int row) { return row < left ? 0 : -INFINITY; }, acc);
    __syncwarp();  // before the stage is filled again
  }
}

}  // namespace quire::kernels::cuda

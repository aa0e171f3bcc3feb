#pragma once

#include "core/base/mix_bits.h"
#include "core/kernels/cuda/refined_workspace.cuh"

// RefinedDecode's second half: keys are drawn by their scores, and what a block's warps
// drew is read exactly, by all of them.
namespace quire::kernels::cuda {

// A segment that is drawn from, and what tables say of it: in shared memory, so that
// after the scores no load of tables is waited for.
struct DrawSegment {
  Segment segment;
  uint32_t start;     // where the row's draws begin
  float to_chance;    // -log2 tau
  int first_page;     // in far_pages, what would be unit 0's
  int64_t queries;    // from the first one's; the outputs', too
  bool others_merge;  // see Lines

  __device__ DrawSegment(const RefinedParams& a, const Segment& s, bool others_merge)
      : segment(s),
        start(MixPlace(a.layer, s.head,
                       a.near.lengths[s.sequence] + s.pages * kPageTokens - 1)),
        to_chance(-a.log2_tau[s.sequence]),
        first_page(a.first_far_page[s.sequence] - s.begin),
        queries(Queries(a, s) - a.near.q),
        others_merge(others_merge) {}
};

// What the block's warps drew and have not read yet.
struct DrawnLists {
  static constexpr int kSize = 320;
  int slot[kRefinedWarps][kSize];     // of the key in the cache, of one head
  __half bias[kRefinedWarps][kSize];  // log2 of one over its probability
  int count[kRefinedWarps];
  // Not in registers, of which drawing takes all.
  int rounds;   // that are over
  int readers;  // warps that have results
};

// A key or value towards the L2, in lines.
template <int kDim>
__device__ inline void PrefetchRow(const Bf16* row) {
#pragma unroll
  for (int i = 0; i < kDim; i += 64) {
    asm volatile("prefetch.global.L2 [%0];\n" ::"l"(row + i));
  }
}

// Draws from the block's units of a segment and reads what was drawn; every thread of the
// block calls it. A warp draws from every kRefinedWarps-th unit. kRow: heads of a
// ScoreStore.
template <int kDim, int kRow>
class DrawReader {
 public:
  static constexpr int kStageBytes = Ring<kDim>::kStageBytes;  // of a warp

  __device__ DrawReader(const RefinedParams& a, const DrawSegment& from,
                        const ScoreStore<kRow>& store, char* stage, DrawnLists& lists)
      : a_(a),
        from_segment_(from),
        s_(from.segment),
        store_(store),
        stage_(SharedAddress(stage)),
        lists_(lists),
        warp_(threadIdx.x / kWarp),
        lane_(threadIdx.x % kWarp),
        unit_(s_.begin + s_.first + warp_),
        last_(s_.begin + s_.last) {}

  // sum_up(): gives log2 of the whole softmax's sums, [kRow / 2]; it is called once, when
  // all has been asked for that the first draws need beside them. take(results): a
  // warp's, if it is one of the first lists.readers, after a barrier that follows all
  // reading.
  template <typename SumUp, typename Take>
  __device__ void Run(SumUp sum_up, Take take) {
    bool summed = false;
    if (threadIdx.x == 0) lists_.rounds = 0;
    for (bool more = true; more;) {
      int drawn = 0;
      do {
        if (!__any_sync(kAll, wanted_ != 0)) {
          Load();
          if (!summed) {
            const __half2* const log_sums = sum_up();
#pragma unroll
            for (int i = 0; i < Layout::kPairs; ++i) log_sums_[i] = log_sums[i];
            summed = true;
          }
          Draw();
        }
        more = ListDrawn(drawn) || unit_ < last_;
      } while (more && drawn <= kMostDrawn);
      if (lane_ == 0) lists_.count[warp_] = drawn;
      more = __syncthreads_or(more);
      Accumulator<kDim, 1> acc;
      if (lists_.rounds > 0) Restore(acc);
      const int read = ReadDrawn(acc);
      if (!from_segment_.others_merge && lists_.rounds == 0 &&
          warp_ >= kRefinedWarps - kRow) {
        SeeWhatLogsPromise();
      }
      if (threadIdx.x == 0 && read > 0) {
        atomicAdd(&a_.counts[s_.sequence].columns,
                  static_cast<unsigned long long>(read) * a_.share);
      }
      if (more) {
        Keep(acc);
        __syncthreads();  // before the lists are written again
        if (threadIdx.x == 0) ++lists_.rounds;
      } else {
        if (threadIdx.x == 0) {
          lists_.readers = lists_.rounds > 0
                               ? kRefinedWarps
                               : min(kRefinedWarps, (read + kSlice - 1) / kSlice);
        }
        __syncthreads();  // before the stages become results
        if (FromHere(warp_) < lists_.readers) take(acc);
      }
    }
  }

 private:
  using Layout = ScoreLayout<kRow>;
  // Pages whose scores and draws are asked for together.
  static constexpr int kTogether = tuning::PagesTogether(kRow);
  static constexpr int kMostDrawn = DrawnLists::kSize - kWarp;  // there is room for more

  // Of a page, the lane's two keys, of which Key says where they are, with all heads.
  // Lanes that have the same keys' scores of different heads divide these keys: lane l
  // takes those of the Pair(l)-th of their tiles.
  struct Page {
    uint2 heads[Layout::kPairs];  // of two keys, two heads
    int draw[2];
  };
  __device__ int Key(int i) const {
    const int tile = Layout::kTiles * Layout::Pair(lane_) + Layout::Tile(lane_);
    return tile * 16 + 8 * i + lane_ / 4;
  }
  // Of a page's scores, which begin at `page`, the lane's: kPairs, so many apart.
  __device__ const uint2* Scores(const __half2* page) const {
    const int pair = Layout::Pair(lane_);
    return reinterpret_cast<const uint2*>(page) + (lane_ - pair) * Layout::kPairs + pair;
  }

  // The pages from unit_ on come to hand; where there is none, anything may.
  __device__ void Load() {
    constexpr int kPage = ScoreStore<kRow>::kPage;
    const int mine = unit_ + lane_ % kTogether * kRefinedWarps;
    if (mine < last_) {
      block_ = a_.far_pages[from_segment_.first_page + mine];
    }
    // Far page 0 is page 1.
    const uint32_t position = from_segment_.start +
                              static_cast<uint32_t>(unit_ - s_.begin + 1) * kPageTokens +
                              Key(0);
#pragma unroll
    for (int i = 0; i < kTogether; ++i) {
      const int16_t* const draws =
          a_.draws + (position + i * kRefinedWarps * kPageTokens) % kRefinedDraws;
      at_hand_[i].draw[0] = __ldg(draws);
      at_hand_[i].draw[1] = __ldg(draws + 8);
    }
    const int local = unit_ - store_.begin;
    if (local + (kTogether - 1) * kRefinedWarps < ScoreStore<kRow>::kSharedPages) {
      const uint2* const first = Scores(store_.shared + local * kPage);
#pragma unroll
      for (int i = 0; i < kTogether; ++i) {
        LoadScores(first + i * (kRefinedWarps * kPage / 2), at_hand_[i]);
      }
      return;
    }
#pragma unroll
    for (int i = 0; i < kTogether; ++i) {
      const int unit = unit_ + i * kRefinedWarps;
      LoadScores(Scores(store_.Of(min(unit, last_ - 1))), at_hand_[i]);
    }
  }
  __device__ static void LoadScores(const uint2* from, Page& page) {
#pragma unroll
    for (int p = 0; p < Layout::kPairs; ++p) page.heads[p] = from[p * Layout::kPairs];
  }

  // From the pages at hand.
  __device__ void Draw() {
    wanted_ = 0;
#pragma unroll
    for (int i = 0; i < kTogether; ++i) {
      const Page& page = at_hand_[i];
      uint32_t heads[2][Layout::kPairs];
#pragma unroll
      for (int p = 0; p < Layout::kPairs; ++p) {
        heads[0][p] = page.heads[p].x;
        heads[1][p] = page.heads[p].y;
      }
#pragma unroll
      for (int k = 0; k < 2; ++k) {
        const float chance = Chance(heads[k]);
        const bool drawn = (chance >= 0) | (chance > static_cast<float>(page.draw[k]));
        wanted_ |= drawn ? 1u << (2 * i + k) : 0u;
      }
    }
    const int pages = max(0, (last_ - unit_ + kRefinedWarps - 1) / kRefinedWarps);
    if (pages < kTogether) wanted_ &= (1u << (2 * pages)) - 1;
    from_ = unit_;
    unit_ += kTogether * kRefinedWarps;
  }

  // log2 of a key's probability, from its scores, in units of 2^-7, as the draws are.
  __device__ float Chance(const uint32_t (&heads)[Layout::kPairs]) const {
    __half2 share = __half2half2(__ushort_as_half(0xfc00));  // -infinity
#pragma unroll
    for (int p = 0; p < Layout::kPairs; ++p) {
      const __half2 score = *reinterpret_cast<const __half2*>(&heads[p]);
      share = __hmax2(share, __hsub2(score, log_sums_[p]));
    }
    const float2 both = __half22float2(share);
    return 128 * (fmaxf(both.x, both.y) + from_segment_.to_chance);
  }

  // What was drawn, while there is room for it. Returns whether there is more.
  __device__ bool ListDrawn(int& drawn) {
    unsigned lanes = __ballot_sync(kAll, wanted_ != 0);
#pragma unroll 1
    while (lanes != 0 && drawn <= kMostDrawn) {
      const int which = wanted_ == 0 ? 0 : __ffs(static_cast<int>(wanted_)) - 1;
      const int block = __shfl_sync(kAll, block_, which / 2);
      if (wanted_ != 0) {
        wanted_ &= wanted_ - 1;
        const int at = drawn + __popc(lanes & ((1u << lane_) - 1));
        List(at, block, from_ + which / 2 * kRefinedWarps, which % 2);
      }
      drawn += __popc(lanes);
      lanes = __ballot_sync(kAll, wanted_ != 0);
    }
    return lanes != 0;
  }

  // The lane's key k of the page in `block`.
  __device__ void List(int at, int block, int unit, int k) {
    const int slot = (block * a_.near.kv_heads + s_.head) * kPageTokens + Key(k);
    PrefetchRow<kDim>(a_.near.k + static_cast<int64_t>(slot) * kDim);
    PrefetchRow<kDim>(a_.near.v + static_cast<int64_t>(slot) * kDim);
    const uint2* const from = Scores(store_.Of(unit));
    uint32_t heads[Layout::kPairs];
#pragma unroll
    for (int p = 0; p < Layout::kPairs; ++p) {
      heads[p] = reinterpret_cast<const uint32_t*>(from + p * Layout::kPairs)[k];
    }
    // Draws are rounded to whole numbers.
    const float chance = Chance(heads);
    lists_.slot[warp_][at] = slot;
    lists_.bias[warp_][at] =
        __float2half(chance >= 0 ? 0.0f : (0.5f - ceilf(chance)) / 128);
  }

  // All of acc's numbers in the stage, while nothing else is there.
  __device__ void Keep(const Accumulator<kDim, 1>& acc) const {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const Part& part = acc.part[0][h];
      StoreShared(Place(3 * h), part.max);
      StoreShared(Place(3 * h + 1), part.sum);
      StoreShared(Place(3 * h + 2), part.certain);
    }
#pragma unroll
    for (int i = 0; i < kDim / 4; ++i) {
      StoreShared(Place(6 + i), acc.values[0][i / 4][i % 4]);
    }
  }
  __device__ void Restore(Accumulator<kDim, 1>& acc) const {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      Part& part = acc.part[0][h];
      part.max = LoadShared(Place(3 * h));
      part.sum = LoadShared(Place(3 * h + 1));
      part.certain = LoadShared(Place(3 * h + 2));
    }
#pragma unroll
    for (int i = 0; i < kDim / 4; ++i) {
      acc.values[0][i / 4][i % 4] = LoadShared(Place(6 + i));
    }
  }
  __device__ uint32_t Place(int i) const {
    static_assert((6 + kDim / 4) * kWarp * 4 <= kStageBytes);
    return stage_ + (i * kWarp + lane_) * 4;
  }

  // The lists' entries, one after another in the order of warps, in slices that the warps
  // divide. Returns how many they are.
  __device__ int ReadDrawn(Accumulator<kDim, 1>& acc) const {
    int end = lane_ < kRefinedWarps ? lists_.count[lane_] : 0;  // of warp lane_'s entries
#pragma unroll
    for (int step = 1; step < kRefinedWarps; step *= 2) {
      const int before = __shfl_up_sync(kAll, end, step);
      if (lane_ >= step) end += before;
    }
    const int total = __shfl_sync(kAll, end, kRefinedWarps - 1);
    const int mine = FromHere(static_cast<int>(threadIdx.x)) / kWarp * kSlice;
    if (mine >= total) return total;
    Tile<kDim, 1> tile;
#pragma unroll 1
    for (int first = mine; first < total; first += kRefinedWarps * kSlice) {
      const float bias = Fetch(first, total, end);
      if (first == mine) {
        tile = Tile<kDim, 1>(a_.near.q + from_segment_.queries, a_.share, a_.near.scale);
      }
      WaitForCopies<0>();
      __syncwarp();
      tile.Attend(
          static_cast<uint32_t>(FromHere(static_cast<int>(stage_))),
          [&](int row) { return __shfl_sync(kAll, bias, row); }, acc);
      __syncwarp();  // before the stage is filled again
    }
    return total;
  }

  // Sends for the entries from `first` on. end: of the lane's warp's entries. Returns the
  // bias of row lane_ % kSlice.
  __device__ float Fetch(int first, int total, int end) const {
    const int lane = FromHere(lane_);
    // Lane l sees to entry first + l % kSlice: whose it is, and which of these.
    const int entry = min(first + lane % kSlice, total - 1);
    int owner = 0;
#pragma unroll
    for (int step = kRefinedWarps / 2; step > 0; step /= 2) {
      if (__shfl_sync(kAll, end, owner + step - 1) <= entry) owner += step;
    }
    const int before = __shfl_sync(kAll, end, owner == 0 ? 0 : owner - 1);
    const int at = owner == 0 ? entry : entry - before;
    const int slot = lists_.slot[owner][at];
    const float bias = __half2float(lists_.bias[owner][at]);
    constexpr int kChunks = kDim / 8;
#pragma unroll 2  // most run through this once: code, too, has to be fetched
    for (int i = 0; i < kSlice * kChunks / kWarp; ++i) {
      const int index = i * kWarp + lane;
      const int row = index / kChunks, chunk = index % kChunks;
      const bool valid = first + row < total;
      const int64_t from =
          static_cast<int64_t>(__shfl_sync(kAll, slot, row)) * kDim + chunk * 8;
      CopyAsync16(Ring<kDim>::Chunk(stage_, row, chunk), a_.near.k + from, valid);
      CopyAsync16(Ring<kDim>::Chunk(stage_ + Ring<kDim>::kSideBytes, row, chunk),
                  a_.near.v + from, valid);
    }
    CommitCopies();
    return first + lane % kSlice < total ? bias : -INFINITY;
  }

  const RefinedParams& a_;
  const DrawSegment& from_segment_;
  const Segment& s_;
  const ScoreStore<kRow>& store_;
  const uint32_t stage_;
  DrawnLists& lists_;
  const int warp_, lane_;
  int unit_;  // of the page to be drawn from next
  const int last_;
  __half2 log_sums_[Layout::kPairs];
  Page at_hand_[kTogether];
  int block_ = 0;        // of the lane's page of these
  int from_ = 0;         // unit of the first page that was drawn from last
  uint32_t wanted_ = 0;  // of these pages' keys, two bits a page: not listed yet
};

// Slices of the keys of a segment that are read for certain, every kCertainWarps-th from
// the warp's on.
template <int kDim>
__device__ inline void ReadCertain(const RefinedParams& a, const Segment& s, int warp,
                                   uint32_t stage, Accumulator<kDim, 1>& acc) {
  constexpr int kSlicesPerPage = kPageTokens / kSlice;
  constexpr int kChunks = kDim / 8;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int length = a.near.lengths[s.sequence];
  const int32_t* const pages = a.near.pages + a.near.first_page[s.sequence];
  const int end = min(s.last * kSlicesPerPage, (length + kSlice - 1) / kSlice);
  int slice = s.first * kSlicesPerPage + warp;
  if (slice >= end) return;
  const Tile<kDim, 1> tile(Queries(a, s), a.share, a.near.scale);
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

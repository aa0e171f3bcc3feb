#pragma once

#include <cuda_fp16.h>

#include "core/kernels/cuda/decode_tile.cuh"
#include "core/kernels/cuda/refined.h"
#include "core/kernels/cuda/tuning.h"
#include "core/kernels/cuda/work_line.cuh"

// What the blocks of RefinedDecode hand to each other, and what parts of it share.
namespace quire::kernels::cuda {

// The first warps score; the others read, meanwhile, what is read for certain. All of
// them draw and read what they drew.
inline constexpr int kScoreWarps = tuning::kScoreWarps;
inline constexpr int kCertainWarps = tuning::kCertainWarps;
inline constexpr int kRefinedWarps = kScoreWarps + kCertainWarps;
inline constexpr int kRefinedThreads = kRefinedWarps * kWarp;
inline constexpr int kRefinedDraws = 32768;

// Barriers of a part of the block's warps.
__device__ inline void SyncScoreWarps() {
  asm volatile("bar.sync 1, %0;\n" ::"n"(kScoreWarps * kWarp) : "memory");
}
__device__ inline void SyncCertainWarps() {
  asm volatile("bar.sync 2, %0;\n" ::"n"(kCertainWarps * kWarp) : "memory");
}

// Heads that a page's scores have places for.
__host__ __device__ inline int64_t ScoreRow(int64_t share) {
  return share <= 2 ? 2 : share <= 4 ? 4 : 8;
}

// Scores of a page as tensor cores give them: a tile has 16 keys as rows and 8 columns,
// and as many of the page's four tiles of keys stand side by side as there is room for
// kRow heads each. Lane l has keys l / 4 and l / 4 + 8 of key tiles v = kTiles i +
// Tile(l), i < kPairs, and of these the heads 2 Pair(l) and the next.
template <int kRow>
struct ScoreLayout {
  static constexpr int kPairs = kRow / 2;    // of heads
  static constexpr int kTiles = 4 / kPairs;  // of keys, side by side
  static constexpr int kPage = kPairs * kPageTokens;

  __device__ static int Pair(int lane) { return lane % 4 % kPairs; }
  __device__ static int Tile(int lane) { return lane % 4 / kPairs; }
};

struct RefinedWorkspace {
  int* arrived;         // [sequences * G] parts of what was drawn that are there
  uint32_t* far_logs;   // [slots, R] SendLog: sums of the index's scores
  uint32_t* near_logs;  // [slots, R] SendLog: sums of what is read for certain
  PartialRows near;     // [slots, R]
  PartialRows drawn;    // [slots, R]
  __half2* scores;      // [far pages, G, 64 ScoreRow / 2], see ScoreStore
};

struct WorkspaceSizes {
  int64_t counters, logs, parts, values, scores;
  int64_t total;
};

__host__ __device__ inline WorkspaceSizes SizesOf(int64_t sequences, int64_t query_heads,
                                                  int64_t kv_heads, int64_t dim,
                                                  int64_t blocks, int64_t far_pages) {
  const int64_t share = query_heads / kv_heads;
  const int64_t slots = Slots(blocks, sequences, kv_heads);
  WorkspaceSizes s;
  s.counters = Align(sequences * kv_heads * 4);
  s.logs = Align(slots * share * 4);
  s.parts = Align(slots * share * static_cast<int64_t>(sizeof(Part)));
  s.values = Align(slots * share * dim * 4);
  s.scores = Align(far_pages * kv_heads * kPageTokens * ScoreRow(share) * 2);
  s.total = s.counters + 2 * s.logs + 2 * s.parts + 2 * s.values + s.scores;
  return s;
}

// What must be zero before a launch, and is again after it, comes first: its place does
// not depend on the rest.
inline RefinedWorkspace LayRefined(const RefinedDecodeArgs& a) {
  const DecodeArgs& n = a.near;
  const WorkspaceSizes s = SizesOf(n.max_sequences, n.query_heads, n.kv_heads, n.head_dim,
                                   n.blocks, a.far_page_count);
  char* at = static_cast<char*>(a.workspace);
  const auto take = [&](int64_t bytes) {
    char* const taken = at;
    at += bytes;
    return taken;
  };
  RefinedWorkspace w;
  w.arrived = reinterpret_cast<int*>(take(s.counters));
  w.far_logs = reinterpret_cast<uint32_t*>(take(s.logs));
  w.near_logs = reinterpret_cast<uint32_t*>(take(s.logs));
  w.near.parts = reinterpret_cast<Part*>(take(s.parts));
  w.near.values = reinterpret_cast<float*>(take(s.values));
  w.drawn.parts = reinterpret_cast<Part*>(take(s.parts));
  w.drawn.values = reinterpret_cast<float*>(take(s.values));
  w.scores = reinterpret_cast<__half2*>(take(s.scores));
  return w;
}

__device__ inline int Share(const RefinedDecodeArgs& a) {
  return a.near.query_heads / a.near.kv_heads;
}

// [R, D]
__device__ inline const Bf16* Queries(const RefinedDecodeArgs& a, const Segment& s) {
  const DecodeArgs& n = a.near;
  return n.q +
         (static_cast<int64_t>(n.rows[s.sequence]) * n.query_heads + s.head * Share(a)) *
             n.head_dim;
}

// Where a block keeps the scores of its units: those of the first ones in shared memory,
// the others, if so many there are, in the workspace. Of a page [lane][i][2 keys] pairs
// of heads, as ScoreLayout says.
template <int kRow>
struct ScoreStore {
  static constexpr int kPage = ScoreLayout<kRow>::kPage;  // pairs
  static constexpr int kSharedBytes = tuning::kScoreBytes;
  static constexpr int kSharedPages = kSharedBytes / (kPage * 4);

  __half2* shared;
  __half2* global;  // of the block's first unit
  int begin;        // which is this one

  __device__ __half2* Of(int unit) const {
    const int local = unit - begin;
    return local < kSharedPages ? shared + local * kPage
                                : global + static_cast<int64_t>(local) * kPage;
  }
};

// A warp that scores has every kScoreWarps-th unit of its block: the first that it has
// from `unit` on.
__device__ inline int OwnUnit(const WorkLine& line, int unit) {
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int ahead = warp - (unit - line.begin) % kScoreWarps;
  return unit + (ahead < 0 ? ahead + kScoreWarps : ahead);
}

// The log2 of a part's sum, to other blocks: a word that is not zero, so that who waits
// for it reads it by looking whether it is there. Who sees a log of SendLogOf sees what
// the block had written before.
__device__ inline uint32_t LogWord(float max, float sum) {
  return __float_as_uint(fmaxf(max, -1e30f) + fmaxf(log2f(sum), -1e30f)) | 1u;
}
__device__ inline void SendLog(uint32_t* to, float max, float sum) {
  asm volatile("st.relaxed.gpu.global.u32 [%0], %1;\n" ::"l"(to), "r"(LogWord(max, sum))
               : "memory");
}
__device__ inline void SendLogOf(uint32_t* to, const Part& written) {
  asm volatile("st.release.gpu.global.u32 [%0], %1;\n" ::"l"(to),
               "r"(LogWord(written.max, written.sum))
               : "memory");
}
__device__ inline float AwaitLog(const uint32_t* from) {
  uint32_t word = 0;
  while (word == 0) {
    asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];\n"
                 : "=r"(word)
                 : "l"(from)
                 : "memory");
  }
  return __uint_as_float(word);
}

__device__ inline void SeeWhatLogsPromise() {
  asm volatile("fence.acq_rel.gpu;\n" ::: "memory");
}

// Results of at most kCount warps of a segment become one.
template <int kDim, int kHeads, int kCount>
struct WarpResults {
  float values[kCount][kHeads][kDim];
  Part parts[kCount][kHeads];
  float weights[kCount][kHeads];

  __device__ void Put(int warp, const Accumulator<kDim, 1>& acc) {
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int head = 2 * (lane % 4) + h;
      const Part& part = acc.part[0][h];
      const float sum = SumOverKeys(part.sum), certain = SumOverKeys(part.certain);
      if (head >= kHeads) continue;
      if (lane < 4) parts[warp][head] = {part.max, sum, certain};
#pragma unroll
      for (int d = 0; d < kDim / 16; ++d) {
        values[warp][head][16 * d + lane / 4] = acc.values[0][d][h];
        values[warp][head][16 * d + lane / 4 + 8] = acc.values[0][d][h + 2];
      }
    }
  }

  // Of the first `count` warps, by `threads` threads, of which this is number `thread`,
  // after a barrier that follows Put. sync: a barrier of these. `slot` is of one head.
  template <typename Sync>
  __device__ void Deliver(int count, int thread, int threads, Sync sync, int share,
                          const PartialRows& to, int64_t slot) {
    const int lane = thread % kWarp;
    for (int head = thread / kWarp; head < share; head += threads / kWarp) {
      const Part part = lane < count ? parts[lane][head] : Part();
      const Part whole = JoinLanes(part);
      if (lane < count) {
        weights[lane][head] = part.sum == 0 ? 0 : FastExp2(part.max - whole.max);
      }
      if (lane == 0) to.parts[slot + head] = whole;
    }
    sync();
    for (int i = thread; i < share * kDim; i += threads) {
      float sum = 0;
#pragma unroll 4
      for (int w = 0; w < count; ++w) {
        sum += weights[w][i / kDim] * values[w][i / kDim][i % kDim];
      }
      to.values[slot * kDim + i] = sum;
    }
  }
};

}  // namespace quire::kernels::cuda

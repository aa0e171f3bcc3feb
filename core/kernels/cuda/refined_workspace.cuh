#pragma once

#include <cuda_fp16.h>

#include "core/kernels/cuda/barriers.cuh"
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
inline constexpr int kMergeChannels = 64;  // that a warp merges

// Barriers of a part of the block's warps. They are in shared memory, since racecheck
// does not follow a part of a block through numbered ones.
enum class WarpsThat { kScore, kReadCertain };

__device__ inline uint32_t BarrierOf(WarpsThat part) {
  __shared__ uint64_t barriers[2];
  return SharedAddress(barriers + static_cast<int>(part));
}
// By one thread; all meet before they use them.
__device__ inline void InitPartBarriers() {
  InitBarrier(BarrierOf(WarpsThat::kScore), kScoreWarps * kWarp);
  InitBarrier(BarrierOf(WarpsThat::kReadCertain), kCertainWarps * kWarp);
}
__device__ inline void SyncScoreWarps() { Meet(BarrierOf(WarpsThat::kScore)); }
__device__ inline void SyncCertainWarps() { Meet(BarrierOf(WarpsThat::kReadCertain)); }

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

// Results of parts of rows, in words that are not zero (SentWord): who waits for one
// looks whether it is there, and reads it with that.
struct SentRows {
  static constexpr int kPartWords = 4;  // the last one says nothing
  // Of a row: each of who merges it gets its own.
  __host__ __device__ static constexpr int PartWords(int dim) {
    return dim / kMergeChannels * kPartWords;
  }
  uint32_t* parts;   // [slots, R, D / kMergeChannels, kPartWords]
  uint32_t* values;  // [slots, R, D]
};
struct RefinedWorkspace {
  int* arrived;         // [sequences * G] far parts that are there
  uint32_t* far_logs;   // [slots, R] log2 of sums of the index's scores
  uint32_t* near_logs;  // [slots, R] and of what is read for certain
  // For who waits for each word, and makes it zero for the next launch.
  SentRows near_sent, drawn_sent;
  // For who is told that all of a head's are there, by `arrived`.
  SentRows near, drawn;
  __half2* scores;  // [far pages, G, 64 ScoreRow / 2], see ScoreStore
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
  s.parts = Align(slots * share * SentRows::PartWords(static_cast<int>(dim)) * 4);
  s.values = Align(slots * share * dim * 4);
  s.scores = Align(far_pages * kv_heads * kPageTokens * ScoreRow(share) * 2);
  s.total = s.counters + 2 * s.logs + 4 * (s.parts + s.values) + s.scores;
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
  for (SentRows* const rows : {&w.near_sent, &w.drawn_sent, &w.near, &w.drawn}) {
    rows->parts = reinterpret_cast<uint32_t*>(take(s.parts));
    rows->values = reinterpret_cast<uint32_t*>(take(s.values));
  }
  w.scores = reinterpret_cast<__half2*>(take(s.scores));
  return w;
}

// What a launch hands its blocks.
struct RefinedParams : RefinedDecodeArgs {
  int32_t share = 0;  // R
};

// [R, D]
__device__ inline const Bf16* Queries(const RefinedParams& a, const Segment& s) {
  const DecodeArgs& n = a.near;
  return n.q +
         (static_cast<int64_t>(n.rows[s.sequence]) * n.query_heads + s.head * a.share) *
             n.head_dim;
}

// Where results go; others_merge: see Lines. A pointer at a time: a choice between
// structures would need them in memory.
__device__ inline SentRows ResultsTo(bool others_merge, const SentRows& sent,
                                     const SentRows& told) {
  return {others_merge ? sent.parts : told.parts,
          others_merge ? sent.values : told.values};
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

// Some numbers as words that are not zero; of NaNs, one becomes another.
__device__ inline uint32_t SentWord(float x) { return max(~__float_as_uint(x), 1u); }
__device__ inline float FromWord(uint32_t word) { return __uint_as_float(~word); }
__device__ inline void SendWord(uint32_t* to, float x) {
  asm volatile("st.relaxed.gpu.global.u32 [%0], %1;\n" ::"l"(to), "r"(SentWord(x))
               : "memory");
}
__device__ inline void SendPart(uint32_t* to, const Part& part) {
  asm volatile("st.relaxed.gpu.global.v4.u32 [%0], {%1, %2, %3, %4};\n" ::"l"(to),
               "r"(SentWord(part.max)), "r"(SentWord(part.sum)),
               "r"(SentWord(part.certain)), "r"(1)
               : "memory");
}
// The log2 of a part's sum. Who sees one of SendLogOf and then calls SeeWhatLogsPromise
// sees what the block had written before.
__device__ inline float LogOf(float max, float sum) {
  return fmaxf(max, -1e30f) + fmaxf(log2f(sum), -1e30f);
}
__device__ inline void SendLogOf(uint32_t* to, float log) {
  asm volatile("st.release.gpu.global.u32 [%0], %1;\n" ::"l"(to), "r"(SentWord(log))
               : "memory");
}
__device__ inline uint32_t LoadWord(const uint32_t* from) {
  uint32_t word;
  asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];\n"
               : "=r"(word)
               : "l"(from)
               : "memory");
  return word;
}
__device__ inline void SeeWhatLogsPromise() {
  asm volatile("fence.acq_rel.gpu;\n" ::: "memory");
}
__device__ inline Part PartFrom(const uint32_t* from) {
  return {FromWord(from[0]), FromWord(from[1]), FromWord(from[2])};
}
__device__ inline float AwaitNumber(const uint32_t* from) {
  uint32_t word = 0;
  while (word == 0) word = LoadWord(from);
  return FromWord(word);
}

// Four neighbours.
struct SentWords {
  uint32_t x[4];

  __device__ void Load(const uint32_t* from) {
    asm volatile("ld.relaxed.gpu.global.v4.u32 {%0, %1, %2, %3}, [%4];\n"
                 : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
                 : "l"(from)
                 : "memory");
  }
  __device__ void SetZero() { x[0] = x[1] = x[2] = x[3] = 0xffffffffu; }
  __device__ bool There() const {
    return (x[0] != 0) & (x[1] != 0) & (x[2] != 0) & (x[3] != 0);
  }
  __device__ float Number(int i) const { return FromWord(x[i]); }
  __device__ static void Clear(uint32_t* at) { *reinterpret_cast<uint4*>(at) = uint4{}; }
};

// Results of at most kCount warps of a segment become one.
template <int kDim, int kHeads, int kCount>
struct WarpResults {
  float values[kCount][kHeads][kDim];
  Part parts[kCount][kHeads];

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
  // after a barrier that follows Put. `slot` is of one head. sent(head, part) is called
  // for each.
  template <typename Sent>
  __device__ void Deliver(int count, int thread, int threads, int share,
                          const SentRows& to, int64_t slot, Sent sent) {
    for (int i = thread; i < share * kDim; i += threads) {
      const int head = i / kDim, channel = i % kDim;
      Part whole;
      whole.max = -1e30f;
#pragma unroll 4
      for (int w = 0; w < count; ++w) whole.max = fmaxf(whole.max, parts[w][head].max);
      float value = 0;
#pragma unroll 4
      for (int w = 0; w < count; ++w) {
        const Part& part = parts[w][head];
        const float weight = part.sum == 0 ? 0 : FastExp2(part.max - whole.max);
        value += weight * values[w][head][channel];
        whole.sum += weight * part.sum;
        whole.certain += weight * part.certain;
      }
      SendWord(to.values + slot * kDim + i, value);
      if (channel % kMergeChannels != 0) continue;
      SendPart(to.parts + (slot + head) * SentRows::PartWords(kDim) +
                   channel / kMergeChannels * SentRows::kPartWords,
               whole);
      if (channel == 0) sent(head, whole);
    }
  }
};

}  // namespace quire::kernels::cuda

#include <algorithm>

#include "core/kernels/cuda/dependent_launch.cuh"
#include "core/kernels/cuda/device_attribute.h"
#include "core/kernels/cuda/index_score.cuh"
#include "core/kernels/cuda/refined_read.cuh"

// One launch, in which every block stays on its multiprocessor. First some warps read its
// part of what is read for certain, while the others score its part of the far keys by
// the index; the scores stay with it. When all sums of a head are there, the blocks that
// have a part of it know how much each of its keys weighs: they draw from their scores,
// read what they drew, and whoever is last merges everything.
//
// A block waits for others, so all must be resident: there is one for each multiprocessor
// at most, and while two such kernels run side by side nothing guarantees it. A device
// must therefore run one at a time.
//
// Scores are log2 of the unnormalised weight, in half precision. Rounding them only moves
// the probabilities with which keys are drawn: the weights follow these, so no bias comes
// of it.
namespace quire::kernels::cuda {
namespace {

constexpr int kMaxBlocks = 250;  // a head's merge has room for no more

// A block's shared memory. The rings of the index are later the stages of what was drawn,
// and then hold results; where lists of what was drawn are, what is read for certain was.
template <int kDim, int kRow>
struct Memory {
  using Certain = WarpResults<kDim, kRow, kCertainWarps>;
  using Drawn = WarpResults<kDim, kRow, kRefinedWarps>;
  static constexpr int kRing = IndexStream<kDim>::kBytes;
  static constexpr int kStage = DrawReader<kDim, kRow>::kStageBytes;
  static_assert(kRing % 128 == 0 && kStage % 128 == 0);
  static constexpr int kRings = std::max(kScoreWarps * kRing, kRefinedWarps* kStage);
  static_assert(kRings >= static_cast<int>(sizeof(Drawn)));
  // What a head's parts weigh, when they are merged; the rest of the rings is for these.
  // A head has a part at most of each block in either line.
  static constexpr int kMergeBytes = 16384;
  static_assert(kMergeBytes >=
                kRow * static_cast<int>(sizeof(Part)) +
                    2 * kMaxBlocks * kRow * static_cast<int>(sizeof(float)));
  static constexpr int kScores = ScoreStore<kRow>::kSharedBytes;
  static constexpr int kCertain = 32768;
  static_assert(kCertain >= kCertainWarps * Ring<kDim>::kStageBytes);
  static_assert(kCertain >= static_cast<int>(sizeof(Certain)));
  static_assert(kCertain >= static_cast<int>(sizeof(DrawnLists)));
  static constexpr int kBytes = kRings + kScores + kCertain;

  char* base;
  __device__ char* RingOf(int warp) const { return base + warp * kRing; }
  __device__ char* StageOf(int warp) const { return base + warp * kStage; }
  __device__ char* Scores() const { return base + kRings; }
  __device__ char* CertainMemory() const { return base + kRings + kScores; }
  __device__ DrawnLists& Lists() const {
    return *reinterpret_cast<DrawnLists*>(CertainMemory());
  }
};

// Both lines in which a head has parts. Blocks that come last in one are first in the
// other.
struct Lines {
  int pages;  // sent for first
  WorkLine far, near;

  __device__ explicit Lines(const RefinedDecodeArgs& a)
      : pages(WorkLine::PagesOfLane(a.first_far_page, a.near.sequences)),
        far(a.first_far_page, a.near.sequences, a.near.kv_heads),
        near(a.near.first_page, a.near.sequences, a.near.kv_heads,
             static_cast<int>(gridDim.x - 1 - blockIdx.x)) {
    far.BeginAtHeads(pages);
  }
};

// The block's part of what is read for certain, by the last warps.
template <int kDim, int kRow>
__device__ void ReadNear(const RefinedDecodeArgs& a, const WorkLine& line,
                         const RefinedWorkspace& work, char* memory) {
  const int share = Share(a);
  const int thread = static_cast<int>(threadIdx.x) - kScoreWarps * kWarp;
  const int warp = thread / kWarp;
  for (int unit = line.begin; unit < line.end;) {
    const Segment segment = line.At(unit);
    Accumulator<kDim, 1> acc;
    ReadCertain<kDim>(a, segment, warp,
                      SharedAddress(memory) + warp * Ring<kDim>::kStageBytes, acc);
    SyncCertainWarps();  // before what was read becomes results
    auto& results = *reinterpret_cast<typename Memory<kDim, kRow>::Certain*>(memory);
    results.Put(warp, acc);
    SyncCertainWarps();
    const int64_t slot = line.Slot(segment) * share;
    results.Deliver(kCertainWarps, thread, kCertainWarps * kWarp, SyncCertainWarps, share,
                    work.near, slot);
    SyncCertainWarps();  // before the results become something else
    if (thread < share) {
      SendLogOf(work.near_logs + slot + thread, work.near.parts[slot + thread]);
    }
    unit += segment.last - segment.first;
  }
}

template <int kDim, int kRow>
__device__ void ScoreFar(const RefinedDecodeArgs& a, const WorkLine& line,
                         const RefinedWorkspace& work, const ScoreStore<kRow>& store,
                         IndexStream<kDim>& stream) {
  int turn = 0;
  for (int unit = line.begin; unit < line.end; ++turn) {
    const Segment segment = line.At(unit);
    Scorer<kDim, kRow> scorer(a, line, segment);
    scorer.Start(turn == 0);
    LaneSums sums;
    scorer.Run(stream, store, sums);
    DeliverSums<kRow>(sums, Share(a), turn,
                      work.far_logs + line.Slot(segment) * Share(a));
    unit += segment.last - segment.first;
  }
  if (turn == 0) WaitForTheOneBefore();
}

// Where a head's parts are, near and far.
struct HeadParts {
  int64_t far_slot, near_slot;  // the first ones, times R
  int far, near;                // how many
  int share;                    // R

  __device__ HeadParts(const Segment& s, const Lines& lines, int share) : share(share) {
    const Segment n = lines.near.Head(s.sequence, s.head);
    far = lines.far.Parts(s);
    near = lines.near.Parts(n);
    far_slot = lines.far.FirstSlot(s) * share;
    near_slot = lines.near.FirstSlot(n) * share;
  }
  __device__ int count() const { return far + near; }
  // Of part p: far ones come first.
  template <typename T>
  __device__ T* Of(int p, int head, T* of_far, T* of_near) const {
    return p < far ? of_far + far_slot + p * share + head
                   : of_near + near_slot + (p - far) * share + head;
  }
};

// A segment that the block draws from and reads.
struct Turn {
  DrawSegment from;
  HeadParts parts;

  __device__ Turn(const RefinedDecodeArgs& a, const Lines& lines, int unit)
      : from(a, lines.far.At(unit)), parts(from.segment, lines, Share(a)) {}
};
// This one and the next.
struct Turns {
  static constexpr int kBytes = static_cast<int>(sizeof(Turn));
  alignas(Turn) char memory[2][kBytes];

  __device__ Turn& At(int number) { return reinterpret_cast<Turn&>(memory[number % 2]); }
  __device__ void Put(int number, const RefinedDecodeArgs& a, const Lines& lines,
                      int unit) {
    if (unit < lines.far.end) At(number) = Turn(a, lines, unit);
  }
};

// log2 of the softmax's sum over what is near and, by the index, far, when all of it is
// there. Heads from R on have none: they ask for no key.
template <int kRow>
__device__ void SumUp(const HeadParts& parts, const RefinedWorkspace& work,
                      __half* log_sums) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int head = kRefinedWarps - 1 - static_cast<int>(threadIdx.x) / kWarp;
  if (head < parts.share) {
    Part whole;
#pragma unroll 1
    for (int p = lane; p < parts.count(); p += kWarp) {
      const uint32_t* const log = parts.Of(p, head, work.far_logs, work.near_logs);
      whole = Join(whole, {AwaitLog(log), 1, 0});
    }
    whole = JoinLanes(whole);
    if (lane == 0) log_sums[head] = __float2half(whole.max + log2f(whole.sum));
  } else if (head < kRow && lane == 0) {
    log_sums[head] = __float2half(INFINITY);
  }
}

// Sends for the values of parts [first, last), a warp a part at a time.
template <int kDim>
__device__ void FetchValues(const HeadParts& parts, int first, int last,
                            const RefinedWorkspace& work, uint32_t to) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int chunks = parts.share * kDim / 4;
#pragma unroll 1
  for (int p = first + static_cast<int>(threadIdx.x) / kWarp; p < last;
       p += kRefinedWarps) {
    const float* const from =
        p < parts.far
            ? work.drawn.values + (parts.far_slot + p * parts.share) * kDim
            : work.near.values + (parts.near_slot + (p - parts.far) * parts.share) * kDim;
#pragma unroll 4
    for (int c = lane; c < chunks; c += kWarp) {
      CopyAsync16(to + ((p - first) * chunks + c) * 16, from + c * 4, true);
    }
  }
  CommitCopies();
}

__device__ void AddFixed(unsigned long long* to, float x) {
  atomicAdd(to, __float2ull_rz(x * 4294967296.0f));
}

// Nobody waits for a head's logs any more.
__device__ void ForgetLogs(const HeadParts& parts, const RefinedWorkspace& work) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int head = static_cast<int>(threadIdx.x) / kWarp;
  if (head >= parts.share) return;
#pragma unroll 1
  for (int p = lane; p < parts.count(); p += kWarp) {
    *parts.Of(p, head, work.far_logs, work.near_logs) = 0;
  }
}

// Whoever brings the last part of a head merges near and far. Its code is short rather
// than unrolled: it runs once, and comes from far away.
template <int kDim, int kRow>
__device__ void Finish(const RefinedDecodeArgs& a, const DrawSegment& from,
                       const HeadParts& parts, const RefinedWorkspace& work,
                       char* shared) {
  constexpr int kValues = Memory<kDim, kRow>::kMergeBytes;  // where these begin
  constexpr int kEach = (kRow * kDim + kRefinedThreads - 1) / kRefinedThreads;
  const int share = parts.share, count = parts.count(), size = share * kDim;
  const int thread = FromHere(static_cast<int>(threadIdx.x));
  const auto* const values = reinterpret_cast<const float*>(shared + kValues);
  const int together =
      (Memory<kDim, kRow>::kRings - kValues) / (size * static_cast<int>(sizeof(float)));
  MergeMemory merged;
  float sum[kEach] = {};
#pragma unroll 1
  for (int first = 0; first < count; first += together) {
    const int last = min(count, first + together);
    FetchValues<kDim>(parts, first, last, work, SharedAddress(values));
    if (first == 0) {  // what they weigh, meanwhile
      merged = JoinParts(
          [&](int p, int r) {
            return *parts.Of(p, r, work.drawn.parts, work.near.parts);
          },
          count, share, shared);
    }
    WaitForCopies<0>();
    __syncthreads();
#pragma unroll
    for (int e = 0; e < kEach; ++e) {
      const int i = thread + e * kRefinedThreads;
      if (i >= size) break;
#pragma unroll 4
      for (int p = first; p < last; ++p) {
        // What no key went into may hold anything.
        const float weight = merged.weights[p * share + i / kDim];
        sum[e] += weight == 0 ? 0 : weight * values[(p - first) * size + i];
      }
    }
    __syncthreads();  // before others take their place
  }
  ForgetLogs(parts, work);
  RefinedDecodeArgs::Counts& counts = a.counts[from.segment.sequence];
#pragma unroll
  for (int e = 0; e < kEach; ++e) {
    const int i = thread + e * kRefinedThreads;
    if (i >= size) break;
    const Part whole = merged.whole[i / kDim];
    a.near.out[from.queries + i] = __float2bfloat16(__fdividef(sum[e], whole.sum));
    if (i % kDim != 0) continue;
    const float covered = fminf(1.0f, __fdividef(whole.certain, whole.sum));
    AddFixed(&counts.coverage, covered);
    AddFixed(&counts.risk, FastSqrt(1 - covered));
  }
}

template <int kDim, int kRow>
__device__ void ReadFar(const RefinedDecodeArgs& a, const Lines& lines,
                        const RefinedWorkspace& work, const ScoreStore<kRow>& store,
                        const Memory<kDim, kRow>& memory, Turns& turns) {
  __shared__ __half2 log_sums[kRow / 2];
  const int share = Share(a);
  for (int unit = lines.far.begin, n = 0; unit < lines.far.end; ++n) {
    const DrawSegment& from = turns.At(n).from;
    const Segment& segment = from.segment;
    const HeadParts& parts = turns.At(n).parts;
    unit += segment.last - segment.first;
    DrawnLists& lists = memory.Lists();
    DrawReader<kDim, kRow> reader(
        a, from, store, memory.StageOf(static_cast<int>(threadIdx.x) / kWarp), lists);
    auto& results = *reinterpret_cast<typename Memory<kDim, kRow>::Drawn*>(memory.base);
    reader.Run(
        [&] {
          SumUp<kRow>(parts, work, reinterpret_cast<__half*>(log_sums));
          if (threadIdx.x == 0) turns.Put(n + 1, a, lines, unit);
          __syncthreads();
          return log_sums;
        },
        [&](const Accumulator<kDim, 1>& acc) {
          results.Put(static_cast<int>(threadIdx.x) / kWarp, acc);
        });
    __syncthreads();
    results.Deliver(
        lists.readers, static_cast<int>(threadIdx.x), kRefinedThreads,
        [] { __syncthreads(); }, share, work.drawn, lines.far.Slot(segment) * share);
    if (BroughtTheLast(work.arrived + segment.index, parts.far)) {
      Finish<kDim, kRow>(a, from, parts, work, memory.base);
    }
    __syncthreads();  // before the results become stages
  }
}

template <int kDim, int kRow>
__global__ void __launch_bounds__(kRefinedThreads, 1)
    RefinedKernel(RefinedDecodeArgs a, RefinedWorkspace work) {
  extern __shared__ __align__(128) char shared[];
  __shared__ Turns turns;
  const Memory<kDim, kRow> memory = {shared};
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const Lines lines(a);
  const ScoreStore<kRow> store = {
      reinterpret_cast<__half2*>(memory.Scores()),
      work.scores + static_cast<int64_t>(lines.far.begin - lines.far.unused) *
                        ScoreStore<kRow>::kPage,
      lines.far.begin};
  if (warp < kScoreWarps) {
    IndexStream<kDim> stream(a, lines.far, memory.RingOf(warp));
    ScoreFar<kDim, kRow>(a, lines.far, work, store, stream);
    WaitForCopies<0>();
  } else {
    WaitForTheOneBefore();
    ReadNear<kDim, kRow>(a, lines.near, work, memory.CertainMemory());
    if (threadIdx.x == kRefinedThreads - 1) {
      turns.Put(0, a, lines, lines.far.begin);
    }
  }
  __syncthreads();  // before rings and lists are used
  // Not earlier: a block has all of its multiprocessor, so that what begins before most
  // blocks are nearly over would crowd where the first ones were.
  LetTheNextBegin();
  ReadFar<kDim, kRow>(a, lines, work, store, memory, turns);
}

template <int kDim, int kRow>
cudaError_t Launch(const RefinedDecodeArgs& a, cudaStream_t stream) {
  constexpr int kBytes = Memory<kDim, kRow>::kBytes;
  const auto kernel = RefinedKernel<kDim, kRow>;
  cudaError_t error =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes);
  if (error != cudaSuccess) return error;
  int multiprocessors = 0;
  error = DeviceAttribute(cudaDevAttrMultiProcessorCount, multiprocessors);
  if (error != cudaSuccess) return error;
  const auto blocks =
      static_cast<unsigned>(std::min({a.near.blocks, multiprocessors, kMaxBlocks}));
  return LaunchDependent(kernel, blocks, kRefinedThreads, kBytes, stream, a,
                         LayRefined(a));
}

}  // namespace

int64_t RefinedWorkspaceBytes(int32_t max_sequences, int32_t query_heads,
                              int32_t kv_heads, int32_t head_dim, int32_t blocks,
                              int64_t max_far_pages) {
  return SizesOf(max_sequences, query_heads, kv_heads, head_dim, blocks, max_far_pages)
      .total;
}

cudaError_t RefinedDecode(const RefinedDecodeArgs& args, cudaStream_t stream) {
  const bool wide = args.near.head_dim == 128;
  switch (ScoreRow(args.near.query_heads / args.near.kv_heads)) {
    case 2:
      return wide ? Launch<128, 2>(args, stream) : Launch<64, 2>(args, stream);
    case 4:
      return wide ? Launch<128, 4>(args, stream) : Launch<64, 4>(args, stream);
    default:
      return wide ? Launch<128, 8>(args, stream) : Launch<64, 8>(args, stream);
  }
}

}  // namespace quire::kernels::cuda

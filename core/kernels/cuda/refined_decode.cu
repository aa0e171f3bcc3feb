#include <algorithm>

#include "core/kernels/cuda/dependent_launch.cuh"
#include "core/kernels/cuda/device_attribute.h"
#include "core/kernels/cuda/index_score.cuh"
#include "core/kernels/cuda/refined_merge.cuh"
#include "core/kernels/cuda/refined_read.cuh"

// One launch, in which every block stays on its multiprocessor. First some warps read its
// part of what is read for certain, while the others score its part of the far keys by
// the index; the scores stay with it. When all sums of a head are there, the blocks that
// have a part of it know how much each of its keys weighs: they draw from their scores
// and read what they drew. Then parts are merged (refined_merge.cuh).
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
  static constexpr int kScoreMemory = kScoreWarps * kRing;  // behind the rings
  static constexpr int kRings = std::max(
      kScoreMemory + static_cast<int>(sizeof(ScoreMemory<kDim>)), kRefinedWarps* kStage);
  static_assert(kRings >= static_cast<int>(sizeof(Drawn)));
  // What a head's parts weigh, when they are merged here; the rest of the rings is for
  // these. A head has a part at most of each block in either line.
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
  __device__ ScoreMemory<kDim>& OfScores() const {
    return *reinterpret_cast<ScoreMemory<kDim>*>(base + kScoreMemory);
  }
  __device__ char* StageOf(int warp) const { return base + warp * kStage; }
  __device__ char* Scores() const { return base + kRings; }
  __device__ char* CertainMemory() const { return base + kRings + kScores; }
  __device__ DrawnLists& Lists() const {
    return *reinterpret_cast<DrawnLists*>(CertainMemory());
  }
};

// The block's part of what is read for certain, by the last warps.
template <int kDim, int kRow>
__device__ void ReadNear(const RefinedParams& a, const Lines& lines,
                         const RefinedWorkspace& work, char* memory) {
  const WorkLine& line = lines.near;
  __shared__ float logs[kRow];  // of a segment's sums, by head
  const int share = a.share;
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
    const SentRows to = ResultsTo(lines.others_merge(), work.near_sent, work.near);
    results.Deliver(
        kCertainWarps, thread, kCertainWarps * kWarp, share, to, slot,
        [&](int head, const Part& part) { logs[head] = LogOf(part.max, part.sum); });
    SyncCertainWarps();  // before the results become something else
    if (thread < share) SendLogOf(work.near_logs + slot + thread, logs[thread]);
    unit += segment.last - segment.first;
  }
}

template <int kDim, int kRow>
__device__ void ScoreFar(const RefinedParams& a, const WorkLine& line,
                         const RefinedWorkspace& work, const ScoreStore<kRow>& store,
                         ScoreMemory<kDim>& memory, IndexStream<kDim>& stream) {
  int turn = 0;
  for (int unit = line.begin; unit < line.end; ++turn) {
    const Segment segment = line.At(unit);
    Scorer<kDim, kRow> scorer(a, line, segment, memory);
    scorer.Start(turn == 0);
    LaneSums sums;
    scorer.Run(stream, store, sums);
    DeliverSums<kDim, kRow>(sums, a.share, turn, memory,
                            work.far_logs + line.Slot(segment) * a.share);
    unit += segment.last - segment.first;
  }
  if (turn == 0) WaitForTheOneBefore();
}

// A segment that the block draws from and reads.
struct Turn {
  DrawSegment from;
  HeadParts parts;

  __device__ Turn(const RefinedParams& a, const Lines& lines, int unit)
      : from(a, lines.far.At(unit), lines.others_merge()),
        parts(from.segment, lines, a.share) {}
};
// This one and the next.
struct Turns {
  static constexpr int kBytes = static_cast<int>(sizeof(Turn));
  alignas(Turn) char memory[2][kBytes];

  __device__ Turn& At(int number) { return reinterpret_cast<Turn&>(memory[number % 2]); }
  __device__ void Put(int number, const RefinedParams& a, const Lines& lines, int unit) {
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
    float high = -1e30f, sum = 0;
#pragma unroll 1
    for (int p = lane; p < parts.count(); p += kWarp) {
      const float log = AwaitNumber(parts.Of(p, head, work.far_logs, work.near_logs));
      const float top = fmaxf(high, log);
      sum = sum * FastExp2(high - top) + FastExp2(log - top);
      high = top;
    }
    const float top = WarpMax(high);
    sum = WarpSum(sum * FastExp2(high - top));
    if (lane == 0) log_sums[head] = __float2half(top + log2f(sum));
  } else if (head < kRow && lane == 0) {
    log_sums[head] = __float2half(INFINITY);
  }
}

template <int kDim, int kRow>
__device__ void ReadFar(const RefinedParams& a, const Lines& lines,
                        const RefinedWorkspace& work, const ScoreStore<kRow>& store,
                        const Memory<kDim, kRow>& memory, Turns& turns) {
  __shared__ __half2 log_sums[kRow / 2];
  const int share = a.share;
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
    results.Deliver(lists.readers, static_cast<int>(threadIdx.x), kRefinedThreads, share,
                    ResultsTo(from.others_merge, work.drawn_sent, work.drawn),
                    lines.far.Slot(segment) * share, [](int, const Part&) {});
    if (!from.others_merge && BroughtTheLast(work.arrived + segment.index, parts.far)) {
      using Here = Memory<kDim, kRow>;
      Finish<kDim, kRow, Here::kRings, Here::kMergeBytes>(a, from, parts, work,
                                                          memory.base);
    }
    __syncthreads();  // before the results become stages
  }
}

template <int kDim, int kRow>
__device__ void Work(const RefinedParams& a, const RefinedWorkspace& work,
                     const Lines& lines, char* shared) {
  __shared__ Turns turns;
  if (threadIdx.x == 0) InitPartBarriers();
  __syncthreads();
  const Memory<kDim, kRow> memory = {shared};
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const ScoreStore<kRow> store = {
      reinterpret_cast<__half2*>(memory.Scores()),
      work.scores + static_cast<int64_t>(lines.far.begin - lines.far.unused) *
                        ScoreStore<kRow>::kPage,
      lines.far.begin};
  if (warp < kScoreWarps) {
    IndexStream<kDim> stream(a, lines.far, memory.RingOf(warp));
    ScoreFar<kDim, kRow>(a, lines.far, work, store, memory.OfScores(), stream);
    WaitForCopies<0>();
  } else {
    WaitForTheOneBefore();
    ReadNear<kDim, kRow>(a, lines, work, memory.CertainMemory());
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
__global__ void __launch_bounds__(kRefinedThreads, 1)
    RefinedKernel(RefinedParams a, RefinedWorkspace work) {
  extern __shared__ __align__(128) char shared[];
  const int far_pages = WorkLine::PagesOfLane(a.first_far_page, a.near.sequences);
  const int workers = static_cast<int>(gridDim.x) - MergeBlocks(a, far_pages);
  if (static_cast<int>(blockIdx.x) < workers) {
    Work<kDim, kRow>(a, work, Lines(a, far_pages, workers), shared);
  } else {
    LetTheNextBegin();
    WaitForTheOneBefore();
    MergeHeads<kDim>(a, work, far_pages, workers);
  }
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
  const int blocks = std::min({a.near.blocks, multiprocessors, kMaxBlocks});
  RefinedParams params = {a};
  params.share = a.near.query_heads / a.near.kv_heads;
  return LaunchDependent(kernel, static_cast<unsigned>(blocks), kRefinedThreads, kBytes,
                         stream, params, LayRefined(a));
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

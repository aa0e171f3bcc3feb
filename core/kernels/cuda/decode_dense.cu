#include "core/kernels/cuda/cuda_kernels.h"
#include "core/kernels/cuda/decode_tile.cuh"
#include "core/kernels/cuda/dependent_launch.cuh"
#include "core/kernels/cuda/work_line.cuh"

// See DecodeArgs. Within a segment each warp streams slices of kSlice keys through its
// own ring of shared memory (decode_tile.cuh), and nobody waits for another warp; at the
// end of a segment the same memory holds the warps' results.
namespace quire::kernels::cuda {
namespace {

constexpr int kSlicesPerPage = kPageTokens / kSlice;

// Partial results in the workspace.
struct Workspace {
  int* arrived;         // [sequences * G] blocks that are done with the head
  PartialRows partial;  // [slots, R]
};

__device__ Workspace Lay(const DecodeArgs& a, int share) {
  char* const base = static_cast<char*>(a.workspace);
  const int64_t counters = Align(int64_t{4} * a.max_sequences * a.kv_heads);
  const int64_t parts =
      Align(Slots(a.blocks, a.max_sequences, a.kv_heads) * share * sizeof(Part));
  return {reinterpret_cast<int*>(base),
          {reinterpret_cast<Part*>(base + counters),
           reinterpret_cast<float*>(base + counters + parts)}};
}

// Streams a segment's keys: every kWarps-th slice.
template <int kDim, int kTiles>
class Stream {
 public:
  __device__ Stream(const DecodeArgs& a, const Segment& s, uint32_t ring)
      : a_(a), s_(s), ring_(ring), lane_(threadIdx.x % kWarp) {
    length_ = a.lengths[s.sequence];
    pages_ = a.pages + a.first_page[s.sequence];
    next_ = s.first * kSlicesPerPage + static_cast<int>(threadIdx.x) / kWarp;
    end_ = min(s.last * kSlicesPerPage, (length_ + kSlice - 1) / kSlice);
  }

  __device__ void Run(const Tile<kDim, kTiles>& tile, Accumulator<kDim, kTiles>& acc) {
    constexpr int kStages = Ring<kDim>::kStages;
    int fetch = next_;
    int page = PageOf(fetch);
    for (int stage = 0; stage < kStages - 1; ++stage) {
      Fetch(fetch, page, stage);
      fetch += kWarps;
      page = PageOf(fetch);
    }
    int stage = 0;
    for (int slice = next_; slice < end_; slice += kWarps) {
      WaitForCopies<kStages - 2>();
      __syncwarp();
      // The stage that was read last: all lanes are done with it.
      Fetch(fetch, page, stage == 0 ? kStages - 1 : stage - 1);
      fetch += kWarps;
      page = PageOf(fetch);
      const int left = length_ - slice * kSlice;
      tile.Attend(
          ring_ + stage * Ring<kDim>::kStageBytes,
          [left](int row) { return row < left ? 0 : -INFINITY; }, acc);
      stage = stage + 1 == kStages ? 0 : stage + 1;
    }
    WaitForCopies<0>();
  }

 private:
  // Read an iteration before it is needed.
  __device__ int PageOf(int slice) const {
    return slice < end_ ? pages_[slice / kSlicesPerPage] : 0;
  }

  __device__ void Fetch(int slice, int page, int stage) {
    if (slice < end_) {
      const uint32_t to = ring_ + stage * Ring<kDim>::kStageBytes;
      const int first = slice * kSlice;
      const int64_t at =
          ((static_cast<int64_t>(page) * a_.kv_heads + s_.head) * kPageTokens +
           first % kPageTokens) *
          kDim;
      constexpr int kChunks = kDim / 8;
#pragma unroll
      for (int i = 0; i < kSlice * kChunks / kWarp; ++i) {
        const int index = i * kWarp + lane_;
        const int row = index / kChunks, chunk = index % kChunks;
        const bool valid = first + row < length_;
        CopyAsync16Once(Ring<kDim>::Chunk(to, row, chunk), a_.k + at + index * 8, valid,
                        once_);
        CopyAsync16Once(Ring<kDim>::Chunk(to + Ring<kDim>::kSideBytes, row, chunk),
                        a_.v + at + index * 8, valid, once_);
      }
    }
    CommitCopies();  // an empty group, too, keeps the count
  }

  const DecodeArgs& a_;
  const Segment& s_;
  const uint32_t ring_;
  const uint64_t once_ = ReadOnce();
  const int lane_;
  int length_;
  const int* pages_;
  int next_, end_;  // slices
};

__device__ int64_t FirstRow(const DecodeArgs& a, const Segment& s, int share) {
  return static_cast<int64_t>(a.rows[s.sequence]) * a.query_heads + s.head * share;
}

// Element i of a head's result [R, D].
template <int kDim>
__device__ void Finish(const DecodeArgs& a, const Segment& s, int share, int i,
                       const Part& part, float value) {
  a.out[FirstRow(a, s, share) * kDim + i] = __float2bfloat16(value / part.sum);
}

// The block's part of the head goes to the workspace; whoever brings the last part merges
// them all, in their order.
template <int kDim, int kTiles>
__device__ void Deliver(const DecodeArgs& a, const Segment& s, const WorkLine& line,
                        const Results<kDim, kTiles>& results, void* shared) {
  const int share = a.query_heads / a.kv_heads;
  const int parts = line.Parts(s);
  const Workspace work = Lay(a, share);
  const int64_t slot = line.Slot(s) * share;
  for (int i = static_cast<int>(threadIdx.x); i < share * kDim; i += kThreads) {
    Part part;
    const float value = results.Sum(i / kDim, i % kDim, part);
    if (parts == 1) {
      Finish<kDim>(a, s, share, i, part, value);
    } else {
      work.partial.values[slot * kDim + i] = value;
      if (i % kDim == 0) work.partial.parts[slot + i / kDim] = part;
    }
  }
  if (parts == 1 || !BroughtTheLast(work.arrived + s.index, parts)) return;
  const int64_t first = line.FirstSlot(s) * share;
  const MergeMemory merged =
      JoinParts([&](int p, int r) { return work.partial.parts[first + p * share + r]; },
                parts, share, shared);
  for (int i = static_cast<int>(threadIdx.x); i < share * kDim; i += kThreads) {
    const float value = SumValues(merged, parts, share, i / kDim, [&](int p) {
      return work.partial.values[(first + p * share) * kDim + i];
    });
    Finish<kDim>(a, s, share, i, merged.whole[i / kDim], value);
  }
}

template <int kDim, int kTiles>
__global__ void __launch_bounds__(kThreads, 1) DecodeKernel(DecodeArgs a) {
  extern __shared__ __align__(128) char shared[];
  const uint32_t ring = SharedAddress(shared) + threadIdx.x / kWarp * Ring<kDim>::kBytes;
  const int share = a.query_heads / a.kv_heads;
  LetTheNextBegin();
  WaitForTheOneBefore();
  const WorkLine line(a.first_page, a.sequences, a.kv_heads);
  for (int unit = line.begin; unit < line.end;) {
    const Segment segment = line.At(unit);
    const Tile<kDim, kTiles> tile(a.q + FirstRow(a, segment, share) * kDim, share,
                                  a.scale);
    Accumulator<kDim, kTiles> acc;
    Stream<kDim, kTiles>(a, segment, ring).Run(tile, acc);
    __syncthreads();  // before the rings become results
    auto& results = *reinterpret_cast<Results<kDim, kTiles>*>(shared);
    results.Put(acc);
    __syncthreads();
    Deliver(a, segment, line, results, shared);
    __syncthreads();  // before the results become rings
    unit += segment.last - segment.first;
  }
}

template <int kDim, int kTiles>
cudaError_t Launch(const DecodeArgs& args, cudaStream_t stream) {
  constexpr int kBytes = kWarps * Ring<kDim>::kBytes;
  static_assert(sizeof(Results<kDim, kTiles>) <= kBytes);
  const auto kernel = DecodeKernel<kDim, kTiles>;
  const cudaError_t set =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes);
  if (set != cudaSuccess) return set;
  return LaunchDependent(kernel, static_cast<unsigned>(args.blocks), kThreads, kBytes,
                         stream, args);
}

template <int kDim>
cudaError_t LaunchFor(const DecodeArgs& args, cudaStream_t stream) {
  switch ((args.query_heads / args.kv_heads + 7) / 8) {
    case 1:
      return Launch<kDim, 1>(args, stream);
    case 2:
      return Launch<kDim, 2>(args, stream);
    default:
      return Launch<kDim, 3>(args, stream);
  }
}

}  // namespace

bool HasDecodeKernel(int32_t head_dim, int32_t share) {
  return (head_dim == 64 || head_dim == 128) && share <= kMaxDecodeShare;
}

int64_t DecodeWorkspaceBytes(int32_t max_sequences, int32_t query_heads, int32_t kv_heads,
                             int32_t head_dim, int32_t blocks) {
  const int64_t share = query_heads / kv_heads;
  const int64_t slots = Slots(blocks, max_sequences, kv_heads);
  return Align(int64_t{4} * max_sequences * kv_heads) +
         Align(slots * share * static_cast<int64_t>(sizeof(Part))) +
         slots * share * head_dim * static_cast<int64_t>(sizeof(float));
}

cudaError_t DenseDecode(const DecodeArgs& args, cudaStream_t stream) {
  return args.head_dim == 64 ? LaunchFor<64>(args, stream) : LaunchFor<128>(args, stream);
}

}  // namespace quire::kernels::cuda

#include "core/kernels/cuda/index_score.cuh"
#include "core/kernels/cuda/refined_workspace.cuh"

// Three launches, each of which begins while the one before ends. The first is
// DenseDecode over what is read for certain; its result stays in parts. The second scores
// every far key by the index, writes the scores and, for each block's part of a head, the
// softmax's sum. The third knows by these how much each key weighs, draws, reads what was
// drawn, and merges everything. The last two cut the work alike.
//
// Scores are log2 of the unnormalised weight, [far pages of the step, G in between as the
// units of WorkLine lie][64 keys][R rounded up to 4] half. Rounding them only moves the
// probabilities with which keys are drawn: the weights follow these, so no bias comes of
// it.
namespace quire::kernels::cuda {
namespace {

constexpr int kDraws = 32768;

// What was drawn and is not read yet, of one warp: a ring of entries.
constexpr int kListSize = 512;
struct List {
  int slot[kListSize];     // of the key in the cache, of one head
  __half bias[kListSize];  // log2 of one over its probability
};

template <int kDim>
struct ReadMemory {
  static constexpr int kBytes = Ring<kDim>::kBytes + sizeof(List);  // of a warp
};

// A warp draws from every kWarps-th page of a segment and reads what it drew. kRow: of
// scores, ScoreRow.
template <int kDim, int kRow>
class Reader {
 public:
  __device__ Reader(const RefinedDecodeArgs& a, const Segment& s, const __half2* log_sums,
                    const RefinedWorkspace& work, char* memory)
      : a_(a),
        s_(s),
        work_(work),
        ring_(SharedAddress(memory)),
        list_(*reinterpret_cast<List*>(memory + Ring<kDim>::kBytes)),
        lane_(threadIdx.x % kWarp),
        tile_(Queries(a, s), Share(a), a.near.scale) {
#pragma unroll
    for (int i = 0; i < kRow / 2; ++i) log_sums_[i] = log_sums[i];
    start_ = a.draw_starts[s.index];
    to_chance_ = -a.log2_tau[s.sequence];
  }

  // Returns how many keys were read.
  __device__ int Run(Accumulator<kDim, 1>& acc) {
    int page = s_.first + static_cast<int>(threadIdx.x) / kWarp;
    for (bool more = true; more;) {
      more = page < s_.last;
      if (more) DrawFrom(page);
      page += kPagesAtATime * kWarps;
      while (true) {
        const int waiting = drawn_ - issued_;
        const bool issue = waiting >= kSlice || (!more && waiting > 0);
        if (issue && in_flight_ < Ring<kDim>::kStages) {
          Issue(min(kSlice, waiting));
        } else if (in_flight_ > 0 && (issue || !more)) {
          ReadOldest(acc);
        } else {
          break;
        }
      }
    }
    return drawn_;
  }

 private:
  // Pages whose scores are on their way together.
  static constexpr int kPagesAtATime = 4;
  static_assert(kListSize >=
                kPagesAtATime * kPageTokens + (Ring<kDim>::kStages + 1) * kSlice);

  __device__ void DrawFrom(int page) {
    Scores scores[kPagesAtATime];
#pragma unroll
    for (int i = 0; i < kPagesAtATime; ++i) Load(page + i * kWarps, scores[i]);
#pragma unroll
    for (int i = 0; i < kPagesAtATime; ++i) {
      if (page + i * kWarps < s_.last) Draw(scores[i]);
    }
    __syncwarp();
  }

  // Of a page: keys `lane` and `lane + 32`.
  struct Scores {
    __half2 heads[2][kRow / 2];
    int draw[2];
    int block;
  };

  __device__ void Load(int page, Scores& scores) const {
    if (page >= s_.last) return;
    const __half* const from =
        work_.scores + static_cast<int64_t>(s_.begin + page) * kPageTokens * kRow;
    scores.block = a_.far_pages[a_.first_far_page[s_.sequence] + page];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int key = half * kWarp + lane_;
      const auto* const heads = reinterpret_cast<const uint2*>(from + key * kRow);
#pragma unroll
      for (int i = 0; i < kRow / 4; ++i) {
        reinterpret_cast<uint2*>(scores.heads[half])[i] = heads[i];
      }
      // Far page 0 is page 1.
      const int position = (page + 1) * kPageTokens + key;
      scores.draw[half] = a_.draws[(start_ + position) % kDraws];
    }
  }

  // The key's largest share of a head's softmax, as log2.
  __device__ float LargestShare(const __half2 (&heads)[kRow / 2]) const {
    __half2 share = __hsub2(heads[0], log_sums_[0]);
#pragma unroll
    for (int i = 1; i < kRow / 2; ++i) {
      share = __hmax2(share, __hsub2(heads[i], log_sums_[i]));
    }
    const float2 both = __half22float2(share);
    return fmaxf(both.x, both.y);
  }

  __device__ void Draw(const Scores& scores) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      // In units of 2^-7 of log2, as the draws are.
      const float chance = 128 * (LargestShare(scores.heads[half]) + to_chance_);
      const bool taken = chance >= 0 || chance > static_cast<float>(scores.draw[half]);
      const unsigned mask = __ballot_sync(kAll, taken);
      if (taken) {
        const int key = half * kWarp + lane_;
        const int at = (drawn_ + __popc(mask & ((1u << lane_) - 1))) % kListSize;
        list_.slot[at] = (scores.block * a_.near.kv_heads + s_.head) * kPageTokens + key;
        // Draws are rounded to whole numbers.
        list_.bias[at] = __float2half(chance >= 0 ? 0.0f : (0.5f - ceilf(chance)) / 128);
      }
      drawn_ += __popc(mask);
    }
  }

  __device__ void Issue(int count) {
    const uint32_t to =
        ring_ + issued_ / kSlice % Ring<kDim>::kStages * Ring<kDim>::kStageBytes;
    constexpr int kChunks = kDim / 8;
#pragma unroll
    for (int i = 0; i < kSlice * kChunks / kWarp; ++i) {
      const int index = i * kWarp + lane_;
      const int row = index / kChunks, chunk = index % kChunks;
      const bool valid = row < count;
      const int64_t slot = valid ? list_.slot[(issued_ + row) % kListSize] : 0;
      const int64_t at = slot * kDim + chunk * 8;
      CopyAsync16(Ring<kDim>::Chunk(to, row, chunk), a_.near.k + at, valid);
      CopyAsync16(Ring<kDim>::Chunk(to + Ring<kDim>::kSideBytes, row, chunk),
                  a_.near.v + at, valid);
    }
    CommitCopies();
    issued_ += count;
    ++in_flight_;
  }

  __device__ void ReadOldest(Accumulator<kDim, 1>& acc) {
    if (in_flight_ == Ring<kDim>::kStages) {
      WaitForCopies<Ring<kDim>::kStages - 1>();
    } else {
      WaitForCopies<0>();
    }
    __syncwarp();
    const int first = read_, count = min(kSlice, issued_ - read_);
    const List& list = list_;
    tile_.Attend(
        ring_ + first / kSlice % Ring<kDim>::kStages * Ring<kDim>::kStageBytes,
        [&list, first, count](int row) {
          return row < count ? __half2float(list.bias[(first + row) % kListSize])
                             : -INFINITY;
        },
        acc);
    read_ += count;
    --in_flight_;
    __syncwarp();  // before the stage is filled again
  }

  const RefinedDecodeArgs& a_;
  const Segment& s_;
  const RefinedWorkspace& work_;
  const uint32_t ring_;
  List& list_;
  const int lane_;
  const Tile<kDim, 1> tile_;
  __half2 log_sums_[kRow / 2];  // log2 of the whole softmax's sums
  int start_;
  float to_chance_;
  int drawn_ = 0, issued_ = 0, read_ = 0;  // entries so far
  int in_flight_ = 0;                      // slices
};

// log2 of the softmax's sum over what is near and, by the index, far. Heads from R on
// have none: they ask for no key.
__device__ void SumUp(const RefinedDecodeArgs& a, const Segment& s, const WorkLine& line,
                      const RefinedWorkspace& work, __half* log_sums) {
  const int share = Share(a), lane = threadIdx.x % kWarp;
  const Part* const far = work.far_sums + line.FirstSlot(s) * share;
  for (int r = static_cast<int>(threadIdx.x) / kWarp; r < share; r += kWarps) {
    Part whole;
    if (lane == 0) whole = work.near.parts[static_cast<int64_t>(s.index) * share + r];
    for (int p = lane; p < line.Parts(s); p += kWarp) {
      whole = Join(whole, far[p * share + r]);
    }
    whole = JoinLanes(whole);
    if (lane == 0) log_sums[r] = __float2half(whole.max + log2f(whole.sum));
  }
  if (static_cast<int>(threadIdx.x) >= share && threadIdx.x < kMaxRefinedDecodeShare) {
    log_sums[threadIdx.x] = __float2half(INFINITY);
  }
  __syncthreads();
}

__device__ void AddFixed(unsigned long long* to, float x) {
  atomicAdd(to, static_cast<unsigned long long>(static_cast<double>(x) * 4294967296.0));
}

template <int kDim>
__device__ void Finish(const RefinedDecodeArgs& a, const Segment& s, const WorkLine& line,
                       const RefinedWorkspace& work, void* shared) {
  const int share = Share(a), parts = line.Parts(s);
  const int64_t near = static_cast<int64_t>(s.index) * share;
  const int64_t first = line.FirstSlot(s) * share;
  const int64_t out = Queries(a, s) - a.near.q;
  const MergeMemory far = JoinParts(work.partial.parts + first, parts, share, shared);
  for (int i = static_cast<int>(threadIdx.x); i < share * kDim; i += kThreads) {
    const Part near_part = work.near.parts[near + i / kDim];
    const Part far_part = far.whole[i / kDim];
    const Part whole = Join(near_part, far_part);
    const float near_value =
        exp2f(near_part.max - whole.max) * work.near.values[near * kDim + i];
    const float drawn =
        SumValues(far, work.partial.values + first * kDim, parts, share, kDim, i);
    const float far_value =
        far_part.sum == 0 ? 0 : exp2f(far_part.max - whole.max) * drawn;
    a.near.out[out + i] = __float2bfloat16((near_value + far_value) / whole.sum);
    if (i % kDim != 0) continue;
    const float covered = fminf(1.0f, whole.certain / whole.sum);
    AddFixed(&a.counts[s.sequence].coverage, covered);
    AddFixed(&a.counts[s.sequence].risk, sqrtf(1 - covered));
  }
}

template <int kDim, int kRow>
__global__ void __launch_bounds__(kThreads, 1) ReadKernel(RefinedDecodeArgs a) {
  extern __shared__ __align__(128) char shared[];
  __shared__ __half2 log_sums[kMaxRefinedDecodeShare / 2];
  char* const memory = shared + threadIdx.x / kWarp * ReadMemory<kDim>::kBytes;
  const int share = Share(a);
  const WorkLine line(a.first_far_page, a.near.sequences, a.near.kv_heads);
  const RefinedWorkspace work = LayRefined(a);
  WaitForTheOneBefore();
  LetTheNextBegin();
  for (int unit = line.begin; unit < line.end;) {
    const Segment segment = line.At(unit);
    SumUp(a, segment, line, work, reinterpret_cast<__half*>(log_sums));
    Accumulator<kDim, 1> acc;
    const int read = Reader<kDim, kRow>(a, segment, log_sums, work, memory).Run(acc);
    if (threadIdx.x % kWarp == 0) {
      atomicAdd(&a.counts[segment.sequence].columns,
                static_cast<unsigned long long>(read) * share);
    }
    __syncthreads();  // before the rings become results
    auto& results = *reinterpret_cast<Results<kDim, 1>*>(shared);
    results.Put(acc);
    __syncthreads();
    const int64_t slot = line.Slot(segment) * share;
    for (int i = static_cast<int>(threadIdx.x); i < share * kDim; i += kThreads) {
      Part part;
      const float value = results.Sum(i / kDim, i % kDim, part);
      work.partial.values[slot * kDim + i] = value;
      if (i % kDim == 0) work.partial.parts[slot + i / kDim] = part;
    }
    if (BroughtTheLast(work.arrived + segment.index, line.Parts(segment))) {
      Finish<kDim>(a, segment, line, work, shared);
    }
    __syncthreads();  // before the results become rings
    unit += segment.last - segment.first;
  }
}

template <int kDim>
cudaError_t Launch(const RefinedDecodeArgs& a, cudaStream_t stream) {
  constexpr int kScoreBytes = kScoreWarps * IndexRing<kDim>::kBytes;
  constexpr int kReadBytes = kWarps * ReadMemory<kDim>::kBytes;
  static_assert(sizeof(Results<kDim, 1>) <= kReadBytes);
  const auto most = cudaFuncAttributeMaxDynamicSharedMemorySize;
  cudaError_t error = cudaFuncSetAttribute(ScoreKernel<kDim>, most, kScoreBytes);
  if (error != cudaSuccess) return error;
  const auto read = ScoreRow(a.near.query_heads / a.near.kv_heads) == 4
                        ? ReadKernel<kDim, 4>
                        : ReadKernel<kDim, 8>;
  error = cudaFuncSetAttribute(read, most, kReadBytes);
  if (error != cudaSuccess) return error;
  DecodeArgs near = a.near;
  near.partial_parts = LayRefined(a).near.parts;
  near.partial_values = LayRefined(a).near.values;
  error = DenseDecode(near, stream);
  if (error != cudaSuccess) return error;
  const auto blocks = static_cast<unsigned>(a.near.blocks);
  error =
      LaunchDependent(ScoreKernel<kDim>, blocks, kScoreThreads, kScoreBytes, stream, a);
  if (error != cudaSuccess) return error;
  return LaunchDependent(read, blocks, kThreads, kReadBytes, stream, a);
}

}  // namespace

int64_t RefinedWorkspaceBytes(int32_t max_sequences, int32_t query_heads,
                              int32_t kv_heads, int32_t head_dim, int32_t blocks,
                              int64_t max_far_pages) {
  return SizesOf(max_sequences, query_heads, kv_heads, head_dim, blocks, max_far_pages)
      .total;
}

cudaError_t RefinedDecode(const RefinedDecodeArgs& args, cudaStream_t stream) {
  return args.near.head_dim == 64 ? Launch<64>(args, stream) : Launch<128>(args, stream);
}

}  // namespace quire::kernels::cuda

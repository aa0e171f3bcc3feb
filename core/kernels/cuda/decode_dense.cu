#include <cmath>

#include "core/kernels/cuda/cuda_kernels.h"
#include "core/kernels/cuda/mma.cuh"

// See DecodeArgs. A unit of work is a page of one key/value head. The units of all
// sequences and heads stand in one line, and block c of n takes the c-th part of it; what
// lies in its part of one head is a segment. Within a segment each warp streams slices of
// kSlice keys through its own ring of shared memory, and nobody waits for another warp.
//
// A slice's scores are computed as K Q^T: keys are the 16 rows of a tensor-core tile and
// query heads its 8 columns, so that R <= 8 heads fill it; values likewise as V^T P^T.
//
// Shared memory: kWarps rings of kStages slices of K and V, 16-byte chunks swizzled by
// their row; at the end of a segment the same memory holds the warps' results.
namespace quire::kernels::cuda {
namespace {

constexpr int kWarp = 32;
constexpr int kWarps = 8;
constexpr int kThreads = kWarp * kWarps;
constexpr int kSlice = 16;
constexpr int kSlicesPerPage = kPageTokens / kSlice;
constexpr unsigned kAll = 0xffffffffu;

// Tuned on an H200: bytes under way for each multiprocessor against blocks on it.
template <int kDim>
constexpr int kStages = kDim == 128 ? 3 : 6;

template <int kDim>
struct Ring {
  static constexpr int kSideBytes = kSlice * kDim * 2;  // K or V of a slice
  static constexpr int kBytes = 2 * kSideBytes * kStages<kDim>;
};

struct Segment {
  int sequence;
  int head;         // key/value head
  int first, last;  // pages of the sequence
  int pages;        // of the sequence
  int index;        // of (sequence, head)
  int begin;        // unit of the head's first page
};

struct Partition {
  int per_block;
  int begin, end;  // of this block
};

__device__ Partition PartOfThisBlock(const DecodeArgs& a) {
  const int total = a.first_page[a.sequences] * a.kv_heads;
  const int blocks = static_cast<int>(gridDim.x);
  const int per_block = (total + blocks - 1) / blocks;
  const int begin = min(total, static_cast<int>(blockIdx.x) * per_block);
  return {per_block, begin, min(total, begin + per_block)};
}

__device__ Segment SegmentAt(const DecodeArgs& a, int unit, int end) {
  int low = 0, high = a.sequences;  // the sequence is in [low, high)
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    (a.first_page[middle] * a.kv_heads <= unit ? low : high) = middle;
  }
  Segment s;
  s.sequence = low;
  s.pages = a.first_page[low + 1] - a.first_page[low];
  const int local = unit - a.first_page[low] * a.kv_heads;
  s.head = local / s.pages;
  s.first = local % s.pages;
  s.last = min(s.pages, s.first + end - unit);
  s.index = low * a.kv_heads + s.head;
  s.begin = unit - s.first;
  return s;
}

// Partial results in the workspace. Slot (block + segment index) has one writer.
struct Workspace {
  int* arrived;     // [sequences * G] blocks that are done with the head
  float2* weights;  // [slots, R] max (log2) and sum
  float* values;    // [slots, R, D]
};

__host__ __device__ int64_t Align(int64_t bytes) { return (bytes + 255) / 256 * 256; }
__host__ __device__ int64_t Slots(int64_t blocks, int64_t sequences, int64_t kv_heads) {
  return blocks + sequences * kv_heads;
}

__device__ Workspace Lay(const DecodeArgs& a, int share) {
  char* const base = static_cast<char*>(a.workspace);
  const int64_t counters = Align(int64_t{4} * a.max_sequences * a.kv_heads);
  const int64_t weights =
      Align(Slots(a.blocks, a.max_sequences, a.kv_heads) * share * sizeof(float2));
  return {reinterpret_cast<int*>(base), reinterpret_cast<float2*>(base + counters),
          reinterpret_cast<float*>(base + counters + weights)};
}

// What a warp has of a segment. Lane l: heads 2 (l % 4) and the next of each tile of 8;
// channels 16 t + l / 4 and 8 after.
template <int kDim, int kTiles>
struct Accumulator {
  float max[kTiles][2];  // in units of log2
  float sum[kTiles][2];  // of this lane's keys
  float values[kTiles][kDim / 16][4];

  __device__ void Clear() {
    for (int t = 0; t < kTiles; ++t) {
      for (int h = 0; h < 2; ++h) max[t][h] = -INFINITY, sum[t][h] = 0;
      for (int d = 0; d < kDim / 16; ++d) {
        for (int i = 0; i < 4; ++i) values[t][d][i] = 0;
      }
    }
  }
};

__device__ float MaxOverKeys(float x) {
  for (int step = 4; step < kWarp; step *= 2)
    x = fmaxf(x, __shfl_xor_sync(kAll, x, step));
  return x;
}
__device__ float SumOverKeys(float x) {
  for (int step = 4; step < kWarp; step *= 2) x += __shfl_xor_sync(kAll, x, step);
  return x;
}

template <int kDim, int kTiles>
class Warp {
 public:
  __device__ Warp(const DecodeArgs& a, const Segment& s, uint32_t ring)
      : a_(a), s_(s), ring_(ring), lane_(threadIdx.x % kWarp) {
    length_ = a.lengths[s.sequence];
    pages_ = a.pages + a.first_page[s.sequence];
    next_ = s.first * kSlicesPerPage + static_cast<int>(threadIdx.x) / kWarp;
    end_ = min(s.last * kSlicesPerPage, (length_ + kSlice - 1) / kSlice);
    LoadQueries();
  }

  __device__ void Run(Accumulator<kDim, kTiles>& acc) {
    acc.Clear();
    int fetch = next_;
    int page = PageOf(fetch);
    for (int stage = 0; stage < kStages<kDim> - 1; ++stage) {
      Fetch(fetch, page, stage);
      fetch += kWarps;
      page = PageOf(fetch);
    }
    int stage = 0;
    for (int slice = next_; slice < end_; slice += kWarps) {
      WaitForCopies<kStages<kDim> - 2>();
      __syncwarp();
      // The stage that was read last: all lanes are done with it.
      Fetch(fetch, page, stage == 0 ? kStages<kDim> - 1 : stage - 1);
      fetch += kWarps;
      page = PageOf(fetch);
      Attend(slice, ring_ + stage * 2 * Ring<kDim>::kSideBytes, acc);
      stage = stage + 1 == kStages<kDim> ? 0 : stage + 1;
    }
    WaitForCopies<0>();
  }

 private:
  // Read an iteration before it is needed.
  __device__ int PageOf(int slice) const {
    return slice < end_ ? pages_[slice / kSlicesPerPage] : 0;
  }

  __device__ void LoadQueries() {
    const int share = a_.query_heads / a_.kv_heads;
    const Bf16* const q =
        a_.q +
        (static_cast<int64_t>(a_.rows[s_.sequence]) * a_.query_heads + s_.head * share) *
            kDim;
    for (int t = 0; t < kTiles; ++t) {
      const int head = 8 * t + lane_ / 4;
      for (int d = 0; d < kDim / 16; ++d) {
        for (int i = 0; i < 2; ++i) {
          const int channel = 16 * d + 8 * i + 2 * (lane_ % 4);
          queries_[t][d][i] =
              head < share ? *reinterpret_cast<const uint32_t*>(q + head * kDim + channel)
                           : 0;
        }
      }
    }
  }

  // The address of a 16-byte chunk of a row of K or V in a stage.
  __device__ static uint32_t Chunk(uint32_t side, int row, int chunk) {
    return side + row * kDim * 2 + (chunk ^ (row & 7)) * 16;
  }

  __device__ void Fetch(int slice, int page, int stage) {
    if (slice < end_) {
      const uint32_t to = ring_ + stage * 2 * Ring<kDim>::kSideBytes;
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
        CopyAsync16(Chunk(to, row, chunk), a_.k + at + index * 8, valid);
        CopyAsync16(Chunk(to + Ring<kDim>::kSideBytes, row, chunk), a_.v + at + index * 8,
                    valid);
      }
    }
    CommitCopies();  // an empty group, too, keeps the count
  }

  __device__ void Attend(int slice, uint32_t stage, Accumulator<kDim, kTiles>& acc) {
    float scores[kTiles][4] = {};
    const int part = lane_ / 8, part_row = lane_ % 8;
#pragma unroll
    for (int d = 0; d < kDim / 16; ++d) {
      const Fragment keys =
          LoadMatrix(Chunk(stage, part_row + part % 2 * 8, 2 * d + part / 2));
      for (int t = 0; t < kTiles; ++t) {
        MultiplyAdd(scores[t], keys, queries_[t][d][0], queries_[t][d][1]);
      }
    }
    uint32_t weights[kTiles][2];
    for (int t = 0; t < kTiles; ++t) Soften(slice, scores[t], t, weights[t], acc);
#pragma unroll
    for (int d = 0; d < kDim / 16; ++d) {
      const Fragment values = LoadTransposed(Chunk(
          stage + Ring<kDim>::kSideBytes, part_row + part / 2 * 8, 2 * d + part % 2));
      for (int t = 0; t < kTiles; ++t) {
        MultiplyAdd(acc.values[t][d], values, weights[t][0], weights[t][1]);
      }
    }
  }

  // Scores of 16 keys and 8 heads become the weights of their values.
  __device__ void Soften(int slice, float (&score)[4], int t, uint32_t (&weights)[2],
                         Accumulator<kDim, kTiles>& acc) {
    const float to_log2 = a_.scale * 1.44269504088896f;
    const int key = slice * kSlice + lane_ / 4;
    for (int i = 0; i < 4; ++i) {
      score[i] = key + (i / 2) * 8 < length_ ? score[i] * to_log2 : -INFINITY;
    }
    float high[2];
    bool grew = false;
    for (int h = 0; h < 2; ++h) {
      high[h] = MaxOverKeys(fmaxf(score[h], score[h + 2]));
      grew |= high[h] > acc.max[t][h];
    }
    if (__any_sync(kAll, grew)) Rescale(high, t, acc);
    for (int i = 0; i < 4; ++i) {
      score[i] = exp2f(score[i] - acc.max[t][i % 2]);
      acc.sum[t][i % 2] += score[i];
    }
    weights[0] = Transpose8x8(PackBf16(score[0], score[1]));
    weights[1] = Transpose8x8(PackBf16(score[2], score[3]));
  }

  __device__ void Rescale(const float (&high)[2], int t, Accumulator<kDim, kTiles>& acc) {
    for (int h = 0; h < 2; ++h) {
      const float max = fmaxf(acc.max[t][h], high[h]);
      const float factor = exp2f(acc.max[t][h] - max);
      acc.max[t][h] = max;
      acc.sum[t][h] *= factor;
      for (int d = 0; d < kDim / 16; ++d) {
        acc.values[t][d][h] *= factor;
        acc.values[t][d][h + 2] *= factor;
      }
    }
  }

  const DecodeArgs& a_;
  const Segment& s_;
  const uint32_t ring_;
  const int lane_;
  int length_;
  const int* pages_;
  int next_, end_;  // slices; this warp takes every kWarps-th
  uint32_t queries_[kTiles][kDim / 16][2];
};

// The warps' results of a segment, in the memory that the rings had.
template <int kDim, int kTiles>
struct Results {
  float2 weights[kWarps][8 * kTiles];
  float values[kWarps][8 * kTiles][kDim];

  __device__ void Put(Accumulator<kDim, kTiles>& acc) {
    const int warp = static_cast<int>(threadIdx.x) / kWarp;
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    for (int t = 0; t < kTiles; ++t) {
      for (int h = 0; h < 2; ++h) {
        const int head = 8 * t + 2 * (lane % 4) + h;
        const float sum = SumOverKeys(acc.sum[t][h]);
        if (lane < 4) weights[warp][head] = {acc.max[t][h], sum};
        for (int d = 0; d < kDim / 16; ++d) {
          values[warp][head][16 * d + lane / 4] = acc.values[t][d][h];
          values[warp][head][16 * d + lane / 4 + 8] = acc.values[t][d][h + 2];
        }
      }
    }
  }
};

// Parts of a softmax become one: weights and values of `count` parts, each `stride` after
// the one before.
__device__ void MergeParts(const float2* weights, int weight_stride, const float* values,
                           int64_t value_stride, int count, float2& weight,
                           float& value) {
  float max = -INFINITY;
  for (int i = 0; i < count; ++i) max = fmaxf(max, weights[i * weight_stride].x);
  weight = {max, 0};
  value = 0;
  for (int i = 0; i < count; ++i) {
    const float2 part = weights[i * weight_stride];
    if (part.y == 0) continue;  // a warp without keys
    const float factor = exp2f(part.x - max);
    weight.y += factor * part.y;
    value += factor * values[i * value_stride];
  }
}

template <int kDim>
__device__ void StoreRow(const DecodeArgs& a, const Segment& s, int share, int i,
                         float2 weight, float value) {
  const int64_t row = a.rows[s.sequence];
  Bf16* const out = a.out + (row * a.query_heads + s.head * share) * kDim;
  out[i] = __float2bfloat16(value / weight.y);
}

// The block's part of the head goes to the workspace; whoever brings the last part merges
// them all, in their order.
template <int kDim, int kTiles>
__device__ void Deliver(const DecodeArgs& a, const Segment& s, const Partition& part,
                        Results<kDim, kTiles>& results) {
  __shared__ bool last;
  const int share = a.query_heads / a.kv_heads;
  const int first_block = s.begin / part.per_block;
  const int parts = (s.begin + s.pages - 1) / part.per_block - first_block + 1;
  const Workspace work = Lay(a, share);
  const int64_t slot = blockIdx.x + s.index;
  for (int i = static_cast<int>(threadIdx.x); i < share * kDim; i += kThreads) {
    float2 weight;
    float value;
    MergeParts(&results.weights[0][i / kDim], 8 * kTiles,
               &results.values[0][i / kDim][i % kDim], 8 * kTiles * kDim, kWarps, weight,
               value);
    if (parts == 1) {
      StoreRow<kDim>(a, s, share, i, weight, value);
      continue;
    }
    work.values[slot * share * kDim + i] = value;
    if (i % kDim == 0) work.weights[slot * share + i / kDim] = weight;
  }
  if (parts == 1) return;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) last = atomicAdd(work.arrived + s.index, 1) == parts - 1;
  __syncthreads();
  if (!last) return;
  __threadfence();
  const int64_t first_slot = first_block + s.index;
  for (int i = static_cast<int>(threadIdx.x); i < share * kDim; i += kThreads) {
    float2 weight;
    float value;
    MergeParts(work.weights + first_slot * share + i / kDim, share,
               work.values + first_slot * share * kDim + i, int64_t{share} * kDim, parts,
               weight, value);
    StoreRow<kDim>(a, s, share, i, weight, value);
  }
  if (threadIdx.x == 0) work.arrived[s.index] = 0;  // for the next launch
}

template <int kDim, int kTiles>
__global__ void __launch_bounds__(kThreads, 1) DecodeKernel(DecodeArgs a) {
  extern __shared__ __align__(128) char shared[];
  const uint32_t ring = SharedAddress(shared) + threadIdx.x / kWarp * Ring<kDim>::kBytes;
  const Partition part = PartOfThisBlock(a);
  for (int unit = part.begin; unit < part.end;) {
    const Segment segment = SegmentAt(a, unit, part.end);
    Accumulator<kDim, kTiles> acc;
    Warp<kDim, kTiles>(a, segment, ring).Run(acc);
    __syncthreads();  // before the rings become results
    auto& results = *reinterpret_cast<Results<kDim, kTiles>*>(shared);
    results.Put(acc);
    __syncthreads();
    Deliver(a, segment, part, results);
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
  kernel<<<static_cast<unsigned>(args.blocks), kThreads, kBytes, stream>>>(args);
  return cudaGetLastError();
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
         Align(slots * share * static_cast<int64_t>(sizeof(float2))) +
         slots * share * head_dim * static_cast<int64_t>(sizeof(float));
}

cudaError_t DenseDecode(const DecodeArgs& args, cudaStream_t stream) {
  return args.head_dim == 64 ? LaunchFor<64>(args, stream) : LaunchFor<128>(args, stream);
}

}  // namespace quire::kernels::cuda

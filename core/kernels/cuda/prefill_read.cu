#include "core/kernels/cuda/barriers.cuh"
#include "core/kernels/cuda/hopper.cuh"
#include "core/kernels/cuda/mma.cuh"
#include "core/kernels/cuda/prefill_workspace.cuh"
#include "core/kernels/cuda/tuning.h"
#include "core/kernels/cuda/warp.cuh"

// The third launch of RefinedPrefill: a block reads one tile's near keys and what it
// chose, 64 keys at a time, which all threads gather into a ring of shared memory; two
// warpgroups have 64 of the tile's rows each. As in FlashAttention (Dao et al., arXiv
// 2205.14135), with a bias for each column: log2 of one over its probability.
//
// Thread l of warp w of a group has rows 16 w + l / 4 and 8 after; of each 8 columns 2
// (l % 4) and the next.
namespace quire::kernels::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kGroupRows = 64;
constexpr int kColumns = kPageTokens;  // of a block of keys
constexpr int kStages = tuning::kReadStages;

template <int kDim>
struct ReadMemory {
  static constexpr int kHalves = kDim / 64;  // rows are cut in parts of 128 bytes
  alignas(1024) Bf16 q[2][kHalves][kGroupRows * 64];
  alignas(1024) Bf16 k[kStages][kHalves][kColumns * 64];
  alignas(1024) Bf16 v[kStages][kHalves][kColumns * 64];
  int slot[kStages + 1][kColumns];    // of keys in the cache, of one head
  float bias[kStages + 1][kColumns];  // -inf: there is no key
};

// A tile's keys in blocks: near pages, then far ones, chosen or all.
class Columns {
 public:
  __device__ Columns(const PrefillLaunch& l, int tile, int head) : l_(l) {
    const RefinedPrefillArgs& a = l.args;
    const int share = a.query_heads / a.kv_heads, tokens = TileTokens(share);
    const int64_t number = 2 * int64_t{l.work.first_pair} + tile;
    first_ = static_cast<int>(number * tokens);
    window_ = static_cast<int>(TileWindowPage(first_, share));
    const int last = min(l.work.pages - 1, (first_ + tokens - 1) / kPageTokens);
    near_ = last - window_ + 2;
    const int64_t list = (static_cast<int64_t>(tile) * a.kv_heads + head) * kLists;
    lists_ = l.work.lists + list * l.work.capacity;
    for (int w = 0; w < kLists; ++w) {
      const int count = l.work.counts[list + w];
      all_ |= count < 0;
      before_[w + 1] = before_[w] + count;
    }
    if (all_) before_[kLists] = (window_ - 1) * kPageTokens;
  }

  __device__ int first() const { return first_; }  // position of the tile's first token
  __device__ int near() const { return near_; }    // blocks that are pages
  __device__ int far() const { return before_[kLists]; }  // columns
  __device__ int blocks() const { return near_ + (far() + kColumns - 1) / kColumns; }
  // Of a near block.
  __device__ int Page(int block) const { return block == 0 ? 0 : window_ + block - 1; }

  // Column i of a block, in two steps so that what the first asks memory for is not
  // waited for: what is known of it, and where in the cache it is.
  struct Column {
    int known = -1;  // its slot, or its page's block; -1: there is no such key
    float bias = -INFINITY;
  };
  __device__ Column Ask(int block, int i) const {
    Column c;
    const int column = (block - near_) * kColumns + i;
    if (block < near_) {
      if (Page(block) * kPageTokens + i < l_.args.begin + l_.args.rows) {
        c = {l_.args.pages[Page(block)], 0};
      }
    } else if (all_) {
      if (column < far()) c = {l_.args.pages[1 + column / kPageTokens], 0};
    } else if (column < far()) {
      int w = 0, first = 0;
#pragma unroll
      for (int j = 1; j < kLists; ++j) {
        if (column >= before_[j]) w = j, first = before_[j];
      }
      const Listed listed =
          lists_[static_cast<int64_t>(w) * l_.work.capacity + column - first];
      c = {listed.slot, listed.bias};
    }
    return c;
  }
  __device__ int Slot(int block, int i, const Column& c) const {
    const bool page = block < near_ || all_;
    return page && c.known >= 0 ? c.known * kPageTokens + i : c.known;
  }

 private:
  const PrefillLaunch& l_;
  const Listed* lists_;
  int first_, window_, near_;
  int before_[kLists + 1] = {};
  bool all_ = false;
};

template <int kDim>
class Reader {
 public:
  __device__ Reader(const PrefillLaunch& l, ReadMemory<kDim>& memory, int tile, int head)
      : l_(l),
        memory_(memory),
        columns_(l, tile, head),
        head_(head),
        // The same in all lanes, and the compiler knows it.
        group_(__shfl_sync(kAll, static_cast<int>(threadIdx.x) / (kThreads / 2), 0)),
        lane_(static_cast<int>(threadIdx.x) % kWarp) {
    share_ = l.args.query_heads / l.args.kv_heads;
    const int warp = static_cast<int>(threadIdx.x) % (kThreads / 2) / kWarp;
    for (int h = 0; h < 2; ++h) {
      const int row = group_ * kGroupRows + 16 * warp + lane_ / 4 + 8 * h;
      token_[h] = row / share_;
      query_head_[h] = head * share_ + row % share_;
    }
  }

  __device__ void Run() {
    const int blocks = columns_.blocks();
    for (int b = 0; b < 2; ++b) {
      Ask(b);
      Locate(b);
    }
    Ask(2);
    FetchQueries();
    __syncthreads();
    Fetch(0);
    CommitCopies();
    for (int b = 0; b < blocks; ++b) {
      WaitForCopies<0>();
      PublishToAsync();
      __syncthreads();  // the block is here, and nobody reads the one before
      if (b + 1 < blocks) Fetch(b + 1);
      CommitCopies();
      Locate(b + 2);
      Ask(b + 3);
      Attend(b);
    }
    Write();
  }

 private:
  static constexpr int kChunks = kDim / 8;  // of 16 bytes, of a row

  __device__ static uint32_t Place(const Bf16* half0, int rows, int row, int chunk) {
    return SharedAddress(half0) + (chunk / 8 * rows + row) * 128 +
           SwizzledChunk<128>(row, chunk % 8) * 16;
  }

  __device__ void FetchQueries() {
    const RefinedPrefillArgs& a = l_.args;
    for (int i = static_cast<int>(threadIdx.x); i < kTileRows * kChunks; i += kThreads) {
      const int row = i / kChunks, chunk = i % kChunks;
      const int token = row / share_;
      const int64_t step_row = columns_.first() + token - a.begin;
      const bool valid = token < TileTokens(share_) && step_row >= 0 && step_row < a.rows;
      const int64_t q =
          valid ? step_row * a.query_heads + head_ * share_ + row % share_ : 0;
      CopyAsync16(
          Place(memory_.q[row / kGroupRows][0], kGroupRows, row % kGroupRows, chunk),
          a.q + q * kDim + chunk * 8, valid);
    }
  }

  __device__ void Ask(int block) {
    const int i = static_cast<int>(threadIdx.x);
    if (i < kColumns && block < columns_.blocks()) asked_ = columns_.Ask(block, i);
  }
  // What was asked last.
  __device__ void Locate(int block) {
    const int i = static_cast<int>(threadIdx.x), place = block % (kStages + 1);
    if (i >= kColumns || block >= columns_.blocks()) return;
    memory_.slot[place][i] = columns_.Slot(block, i, asked_);
    memory_.bias[place][i] = asked_.bias;
  }

  __device__ void Fetch(int block) {
    const int place = block % (kStages + 1), stage = block % kStages;
    const int chunk = static_cast<int>(threadIdx.x) % kChunks;
#pragma unroll
    for (int i = 0; i < kColumns * kChunks / kThreads; ++i) {
      const int row = i * (kThreads / kChunks) + static_cast<int>(threadIdx.x) / kChunks;
      const int found = memory_.slot[place][row];
      const int64_t slot = found < 0 ? 0 : found;
      const int64_t page = slot / kPageTokens;
      const int64_t at =
          ((page * l_.args.kv_heads + head_) * kPageTokens + slot % kPageTokens) * kDim +
          chunk * 8;
      CopyAsync16(Place(memory_.k[stage][0], kColumns, row, chunk), l_.args.k + at,
                  found >= 0);
      CopyAsync16(Place(memory_.v[stage][0], kColumns, row, chunk), l_.args.v + at,
                  found >= 0);
    }
  }

  __device__ void Attend(int block) {
    const int stage = block % kStages;
    float score[kColumns / 2];
    BeginProducts();
#pragma unroll
    for (int k = 0; k < kDim / 16; ++k) {  // 32 bytes on within a row's part of 128
      MultiplyBf16(score,
                   MatrixOperand<128>(SharedAddress(memory_.q[group_][k / 4]), 1024, 0) +
                       2 * (k % 4),
                   MatrixOperand<128>(SharedAddress(memory_.k[stage][k / 4]), 1024, 0) +
                       2 * (k % 4),
                   k > 0);
    }
    CommitProducts();
    WaitForProducts<0>();
    TakeResults(score);
    Weigh(block, score);
    uint32_t weights[kColumns / 16][4];
#pragma unroll
    for (int k = 0; k < kColumns / 16; ++k) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        weights[k][i] = PackBf16(score[8 * k + 2 * i], score[8 * k + 2 * i + 1]);
      }
    }
    BeginProducts();
#pragma unroll
    for (int k = 0; k < kColumns / 16; ++k) {
      MultiplyBf16(
          out_, weights[k],
          MatrixOperand<128>(SharedAddress(memory_.v[stage][0]), 1024, kColumns * 128) +
              k * (16 * 128 / 16));
    }
    CommitProducts();
    WaitForProducts<0>();
    TakeResults(out_);
  }

  // Scores become weights; what there is so far is brought to the new largest score.
  __device__ void Weigh(int block, float (&score)[kColumns / 2]) {
    const float* const bias = memory_.bias[block % (kStages + 1)];
    const float to_log2 = l_.args.scale * kLog2E;
    const bool near = block < columns_.near();
    const int key = near ? columns_.Page(block) * kPageTokens : 0;
    const bool masked = near && key + kPageTokens > columns_.first() + 1;
    float high[2] = {-INFINITY, -INFINITY};
#pragma unroll
    for (int j = 0; j < kColumns / 8; ++j) {
      const int column = 8 * j + 2 * (lane_ % 4);
      const float2 two = *reinterpret_cast<const float2*>(bias + column);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        float& s = score[4 * j + i];
        s = fmaf(s, to_log2, i % 2 == 0 ? two.x : two.y);
        if (masked && key + column + i % 2 > columns_.first() + token_[i / 2]) {
          s = -INFINITY;
        }
        high[i / 2] = fmaxf(high[i / 2], s);
      }
    }
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      high[h] = fmaxf(high[h], __shfl_xor_sync(kAll, high[h], 1));
      high[h] = fmaxf(high[h], __shfl_xor_sync(kAll, high[h], 2));
    }
    if (__any_sync(kAll, high[0] > max_[0] || high[1] > max_[1])) Rescale(high);
#pragma unroll
    for (int j = 0; j < kColumns / 8; ++j) {
      const float2 two = *reinterpret_cast<const float2*>(bias + 8 * j + 2 * (lane_ % 4));
      const float sure[2] = {two.x == 0 ? 1.0f : 0.0f, two.y == 0 ? 1.0f : 0.0f};
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        float& s = score[4 * j + i];
        s = FastExp2(s - max_[i / 2]);
        sum_[i / 2] += s;
        certain_[i / 2] = fmaf(s, sure[i % 2], certain_[i / 2]);
      }
    }
  }

  __device__ void Rescale(const float (&high)[2]) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const float max = fmaxf(max_[h], high[h]);
      Scale(h, FastExp2(max_[h] - max));
      max_[h] = max;
    }
  }

  __device__ void Scale(int h, float factor) {
    sum_[h] *= factor;
    certain_[h] *= factor;
#pragma unroll
    for (int j = 0; j < kDim / 8; ++j) {
      out_[4 * j + 2 * h] *= factor;
      out_[4 * j + 2 * h + 1] *= factor;
    }
  }

  __device__ void Write() {
    const RefinedPrefillArgs& a = l_.args;
    float covered = 0, risk = 0;
    int rows = 0;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      for (int step = 1; step < 4; step *= 2) {
        sum_[h] += __shfl_xor_sync(kAll, sum_[h], step);
        certain_[h] += __shfl_xor_sync(kAll, certain_[h], step);
      }
      const int64_t row = columns_.first() + token_[h] - a.begin;
      if (token_[h] >= TileTokens(share_) || row < 0 || row >= a.rows) continue;
      Bf16* const to = a.out + (row * a.query_heads + query_head_[h]) * kDim;
      const float factor = 1 / sum_[h];
#pragma unroll
      for (int j = 0; j < kDim / 8; ++j) {
        *reinterpret_cast<uint32_t*>(to + 8 * j + 2 * (lane_ % 4)) =
            PackBf16(out_[4 * j + 2 * h] * factor, out_[4 * j + 2 * h + 1] * factor);
      }
      if (lane_ % 4 != 0) continue;
      const float share = fminf(1, certain_[h] * factor);
      covered += share;
      risk += sqrtf(1 - share);
      ++rows;
    }
    Count(covered, risk, rows);
  }

  // Whole numbers are added, so that their order does not matter.
  __device__ void Count(float covered, float risk, int rows) {
    for (int step = 1; step < kWarp; step *= 2) {
      covered += __shfl_xor_sync(kAll, covered, step);
      risk += __shfl_xor_sync(kAll, risk, step);
      rows += __shfl_xor_sync(kAll, rows, step);
    }
    if (lane_ != 0) return;
    RefinedDecodeArgs::Counts* const counts = l_.args.counts;
    const auto fixed = [](float x) {
      return static_cast<unsigned long long>(static_cast<double>(x) * 4294967296.0);
    };
    atomicAdd(&counts->columns, static_cast<unsigned long long>(rows) * columns_.far());
    atomicAdd(&counts->coverage, fixed(covered));
    atomicAdd(&counts->risk, fixed(risk));
  }

  const PrefillLaunch& l_;
  ReadMemory<kDim>& memory_;
  const Columns columns_;
  Columns::Column asked_;
  const int head_, group_, lane_;
  int share_;
  int token_[2], query_head_[2];  // of this thread's rows
  float out_[kDim / 2] = {};
  float max_[2] = {-INFINITY, -INFINITY};
  float sum_[2] = {}, certain_[2] = {};  // of this thread's columns
};

template <int kDim>
__global__ void __launch_bounds__(kThreads, 2)
    ReadKernel(const __grid_constant__ PrefillLaunch l) {
  extern __shared__ char shared[];
  auto& memory = *reinterpret_cast<ReadMemory<kDim>*>(
      (reinterpret_cast<uintptr_t>(shared) + 1023) / 1024 * 1024);
  // Heads one after another, as they were chosen.
  const int tile = l.work.tiles - 1 - static_cast<int>(blockIdx.x) % l.work.tiles;
  const int head = static_cast<int>(blockIdx.x) / l.work.tiles;
  // A tile of a pair may have no row.
  const int tokens = TileTokens(l.args.query_heads / l.args.kv_heads);
  const int64_t first = (2 * int64_t{l.work.first_pair} + tile) * tokens;
  if (first + tokens <= l.args.begin || first >= l.args.begin + l.args.rows) return;
  Reader<kDim>(l, memory, tile, head).Run();
}

template <int kDim>
cudaError_t Launch(const PrefillLaunch& l, cudaStream_t stream) {
  constexpr int kBytes = sizeof(ReadMemory<kDim>) + 1024;
  const cudaError_t error = cudaFuncSetAttribute(
      ReadKernel<kDim>, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes);
  if (error != cudaSuccess) return error;
  ReadKernel<kDim><<<static_cast<unsigned>(l.work.tiles * l.args.kv_heads), kThreads,
                     kBytes, stream>>>(l);
  return cudaGetLastError();
}

}  // namespace

cudaError_t ReadChosen(const PrefillLaunch& l, cudaStream_t stream) {
  return l.args.head_dim == 64 ? Launch<64>(l, stream) : Launch<128>(l, stream);
}

}  // namespace quire::kernels::cuda

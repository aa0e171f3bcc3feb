#include <cuda_fp16.h>

#include "core/base/mix_bits.h"
#include "core/kernels/cuda/barriers.cuh"
#include "core/kernels/cuda/hopper.cuh"
#include "core/kernels/cuda/mma.cuh"
#include "core/kernels/cuda/prefill_workspace.cuh"
#include "core/kernels/cuda/tuning.h"
#include "core/kernels/cuda/warp.cuh"

// The second launch of RefinedPrefill: which far keys each tile reads. A block has two
// neighbouring tiles of one head, a warpgroup each, and pages of keys come through a ring
// in shared memory, which one thread fills. Scores are computed as K
// Q^T: the 64 keys of a page are a product's rows and the tile's 128 queries its columns,
// so that the largest share of a key is found within a thread, but for two shuffles.
//
// Lane l of warp w has keys 16 w + l / 4 and 8 after of a page, and of each 8 queries 2
// (l % 4) and the next.
namespace quire::kernels::cuda {
namespace {

constexpr int kTilesABlock = 2;
constexpr int kGroupThreads = 128;
constexpr int kThreads = kTilesABlock * kGroupThreads;
constexpr int kStages = tuning::kChooseStages;
constexpr int kPagesAStage = tuning::kChoosePages;
constexpr int kPairs = kTileRows / 8;  // pairs of neighbouring queries that a lane has
// A share may be larger than all that was known before. Its power of two is limited so
// that no sum of half floats overflows; sums reach the truth at a later update.
constexpr float kMostLog2 = 5;

template <int kDim>
struct ChooseMemory {
  alignas(1024) uint8_t queries[kTilesABlock][kTileRows * kDim];
  alignas(1024) uint8_t keys[kStages][kPagesAStage][kPageTokens * kDim];
  __half2 sums[kTilesABlock][kLists][kTileRows / 2];
  uint64_t full[kStages], empty[kStages], queries_here;
};

__device__ __half2 Half2Of(uint32_t x) { return *reinterpret_cast<__half2*>(&x); }

// Pages in the order in which a block looks at them: near ones twice (for the largest
// score, then for the sum), then far ones from the last to the first; two a stage.
struct PageOrder {
  int window;  // first page of the window; pages [1, it) are far
  int near;    // pages 0 and [window, last]
  int near_stages, far_stages;

  __device__ PageOrder(int window, int last)
      : window(window),
        near(last - window + 2),
        near_stages((near + 1) / 2),
        far_stages(window / 2) {}
  __device__ int stages() const { return 2 * near_stages + far_stages; }
  // The i-th page of a stage, or -1.
  __device__ int Page(int stage, int i) const {
    return stage < 2 * near_stages ? Near(stage % near_stages, i)
                                   : Far(stage - 2 * near_stages, i);
  }
  __device__ int Near(int stage, int i) const {
    const int at = 2 * stage + i;
    return at >= near ? -1 : at == 0 ? 0 : window + at - 1;
  }
  __device__ int Far(int stage, int i) const {
    const int page = window - 1 - 2 * stage - i;
    return page > 0 ? page : -1;
  }
};

struct Block {
  int pair, head;
  int64_t first;  // position of its first token
  PageOrder order;

  // Heads one after another, so that those at work share keys; long rows first.
  __device__ static Block Of(const PrefillLaunch& l) {
    const RefinedPrefillArgs& a = l.args;
    const int pairs = l.work.tiles / 2, share = a.query_heads / a.kv_heads;
    const int head = static_cast<int>(blockIdx.x) / pairs;
    const int pair = pairs - 1 - static_cast<int>(blockIdx.x) % pairs;
    const int tokens = kTilesABlock * TileTokens(share);
    const int64_t first = static_cast<int64_t>(l.work.first_pair + pair) * tokens;
    const int64_t last_page = (first + tokens - 1) / kPageTokens;
    return {pair, head, first,
            PageOrder(static_cast<int>(TileWindowPage(first, share)),
                      static_cast<int>(last_page < l.work.pages ? last_page
                                                                : l.work.pages - 1))};
  }
};

// ---- what one thread has copied to shared memory
template <int kDim>
__device__ void BringQueries(const PrefillLaunch& l, const Block& block,
                             ChooseMemory<kDim>& memory) {
  constexpr uint32_t kTileBytes = kTileRows * kDim;
  const uint32_t here = SharedAddress(&memory.queries_here);
  ArriveAndExpect(here, kTilesABlock * kTileBytes);
  for (int t = 0; t < kTilesABlock; ++t) {
    const int64_t tile =
        static_cast<int64_t>(kTilesABlock * block.pair + t) * l.args.kv_heads +
        block.head;
    CopyBulk(SharedAddress(memory.queries[t]), l.work.queries + tile * kTileBytes,
             kTileBytes, here);
  }
}

template <int kDim>
__device__ void BringStage(const PrefillLaunch& l, const Block& block, int stage,
                           ChooseMemory<kDim>& memory) {
  constexpr uint32_t kPageBytes = kPageTokens * kDim;
  if (stage >= block.order.stages()) return;
  const int slot = stage % kStages;
  const uint32_t full = SharedAddress(&memory.full[slot]);
  const uint8_t* const keys =
      l.work.keys + static_cast<int64_t>(block.head) * l.work.pages * kPageBytes;
  const int second = block.order.Page(stage, 1);
  ArriveAndExpect(full, second < 0 ? kPageBytes : kPagesAStage * kPageBytes);
  CopyBulk(SharedAddress(memory.keys[slot][0]),
           keys + static_cast<int64_t>(block.order.Page(stage, 0)) * kPageBytes,
           kPageBytes, full);
  if (second < 0) return;
  CopyBulk(SharedAddress(memory.keys[slot][1]),
           keys + static_cast<int64_t>(second) * kPageBytes, kPageBytes, full);
}

// ---- a warpgroup that chooses for a tile
template <int kDim>
class Chooser {
 public:
  __device__ Chooser(const PrefillLaunch& l, const Block& block,
                     ChooseMemory<kDim>& memory)
      : l_(l),
        block_(block),
        memory_(memory),
        group_(OfWarp(static_cast<int>(threadIdx.x) / kGroupThreads)),
        warp_(OfWarp(static_cast<int>(threadIdx.x) % kGroupThreads / kWarp)),
        lane_(static_cast<int>(threadIdx.x) % kWarp) {
    const RefinedPrefillArgs& a = l.args;
    share_ = a.query_heads / a.kv_heads;
    first_ = static_cast<int>(block.first) + group_ * TileTokens(share_);
    const int64_t tile =
        static_cast<int64_t>(kTilesABlock * block.pair + group_) * a.kv_heads +
        block.head;
    list_ = (tile * kLists + warp_) * l.work.capacity;
    count_ = tile * kLists + warp_;
    start_ =
        MixBits(a.seed * 0x9e3779b9u + static_cast<uint32_t>(block.head) * 0x632be5abu +
                static_cast<uint32_t>(first_));
    queries_ = MatrixOperand<kDim>(SharedAddress(memory.queries[group_]), 8 * kDim, 0);
  }

  __device__ void Run() {
    WaitForPhase(SharedAddress(&memory_.queries_here), 0);
    const PageOrder& order = block_.order;
    const __half2 none = __float2half2_rn(-INFINITY);
#pragma unroll
    for (int j = 0; j < kPairs; ++j) log_sum_[j] = none;
    int stage = 0;
    for (; stage < order.near_stages; ++stage) {
      OfStage(stage, order.Near(stage, 0), order.Near(stage, 1),
              [this](int page) { TakeLargest(page); });
    }
    ShareLargest();
    for (; stage < 2 * order.near_stages; ++stage) {
      const int again = stage - order.near_stages;
      OfStage(stage, order.Near(again, 0), order.Near(again, 1),
              [this](int page) { AddNear(page); });
    }
    UpdateSums(/*begin=*/true);
    int next = 1;
    for (int far = 0; far < order.far_stages; ++far, ++stage) {
      OfStage(stage, order.Far(far, 0), order.Far(far, 1),
              [this](int page) { Choose(page); });
      if (far + 1 < next) continue;
      UpdateSums(/*begin=*/false);
      next = next < tuning::kUpdateStages ? 2 * next : next + tuning::kUpdateStages;
    }
    if (lane_ == 0) l_.work.counts[count_] = chosen_ > l_.work.capacity ? -1 : chosen_;
  }

 private:
  // The same in all lanes, and the compiler knows it.
  __device__ static int OfWarp(int x) { return __shfl_sync(kAll, x, 0); }

  // use(page): with the page's scores in scores_. second: -1 if there is none.
  template <typename Use>
  __device__ void OfStage(int stage, int first, int second, Use use) {
    const int slot = stage % kStages;
    WaitForPhase(SharedAddress(&memory_.full[slot]),
                 static_cast<uint32_t>(stage / kStages) & 1);
    cache_block_ = l_.args.pages[first];  // on its way while scores are made
    Score(memory_.keys[slot][0]);
    if (group_ == 0 && warp_ == 0 && stage > 0) RefillBefore(stage);
    if (second < 0) Release(slot);
    use(first);
    if (second < 0) return;
    cache_block_ = l_.args.pages[second];
    Score(memory_.keys[slot][1]);
    Release(slot);
    use(second);
  }

  __device__ void Release(int slot) {
    if (lane_ == 0) Arrive(SharedAddress(&memory_.empty[slot]));
  }

  // The stage before this one: most likely all are done with it.
  __device__ void RefillBefore(int stage) {
    WaitForPhase(SharedAddress(&memory_.empty[(stage - 1) % kStages]),
                 static_cast<uint32_t>((stage - 1) / kStages) & 1);
    if (lane_ == 0) BringStage<kDim>(l_, block_, stage - 1 + kStages, memory_);
    __syncwarp();
  }

  __device__ void Score(const uint8_t* keys) {
    const uint64_t operand = MatrixOperand<kDim>(SharedAddress(keys), 8 * kDim, 0);
    BeginProducts();
#pragma unroll
    for (int k = 0; k < kDim / 32; ++k) {  // 32 bytes on
      MultiplyE4m3(scores_, operand + 2 * k, queries_ + 2 * k, k > 0);
    }
    CommitProducts();
    WaitForProducts<0>();
    TakeResults(scores_);
  }

  // Scores of keys that a query does not see become -inf.
  __device__ void Mask(int page) {
    if ((page + 1) * kPageTokens <= first_ + 1) return;
    const int key = page * kPageTokens + 16 * warp_ + lane_ / 4;
#pragma unroll
    for (int j = 0; j < kPairs; ++j) {
      const int query = 8 * j + 2 * (lane_ % 4);
      const int token[2] = {first_ + query / share_, first_ + (query + 1) / share_};
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        __half2 score = Half2Of(scores_[2 * j + half]);
        if (key + 8 * half > token[0]) score.x = __ushort_as_half(0xfc00);
        if (key + 8 * half > token[1]) score.y = __ushort_as_half(0xfc00);
        scores_[2 * j + half] = *reinterpret_cast<uint32_t*>(&score);
      }
    }
  }

  __device__ void TakeLargest(int page) {
    Mask(page);
#pragma unroll
    for (int j = 0; j < kPairs; ++j) {
      log_sum_[j] = __hmax2(
          log_sum_[j], __hmax2(Half2Of(scores_[2 * j]), Half2Of(scores_[2 * j + 1])));
    }
  }

  // The largest near score of each query, in all lanes that have it.
  __device__ void ShareLargest() {
#pragma unroll
    for (int j = 0; j < kPairs; ++j) {
      for (int step = 4; step < kWarp; step *= 2) {
        log_sum_[j] = __hmax2(log_sum_[j], __shfl_xor_sync(kAll, log_sum_[j], step));
      }
      if (lane_ < 4) memory_.sums[group_][warp_][4 * j + lane_] = log_sum_[j];
    }
    SyncGroup(1 + group_);
#pragma unroll
    for (int j = 0; j < kPairs; ++j) {
      for (int w = 0; w < kLists; ++w) {
        log_sum_[j] = __hmax2(log_sum_[j], memory_.sums[group_][w][4 * j + lane_ % 4]);
      }
      sum_[j] = __float2half2_rn(0);
    }
    SyncGroup(1 + group_);
  }

  __device__ void AddNear(int page) {
    Mask(page);
    const __half2 unit = __float2half2_rn(1 / kScoreUnits);
#pragma unroll
    for (int j = 0; j < kPairs; ++j) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const __half2 score = __hsub2(Half2Of(scores_[2 * j + half]), log_sum_[j]);
        sum_[j] = __hadd2(sum_[j], Exp2(__hmul2(score, unit)));
      }
    }
  }

  // Sums of all lanes and warps go into log_sum_, to what it stands for already unless
  // these are the first.
  __device__ void UpdateSums(bool begin) {
#pragma unroll
    for (int j = 0; j < kPairs; ++j) {
      for (int step = 4; step < kWarp; step *= 2) {
        sum_[j] = __hadd2(sum_[j], __shfl_xor_sync(kAll, sum_[j], step));
      }
      if (lane_ < 4) memory_.sums[group_][warp_][4 * j + lane_] = sum_[j];
    }
    SyncGroup(1 + group_);
#pragma unroll
    for (int j = 0; j < kPairs; ++j) {
      float x = begin ? 0 : 1, y = x;
      for (int w = 0; w < kLists; ++w) {
        const float2 part = __half22float2(memory_.sums[group_][w][4 * j + lane_ % 4]);
        x += part.x;
        y += part.y;
      }
      const float2 before = __half22float2(log_sum_[j]);
      log_sum_[j] = __floats2half2_rn(before.x + kScoreUnits * __log2f(x),
                                      before.y + kScoreUnits * __log2f(y));
      sum_[j] = __float2half2_rn(0);
    }
    if (begin) DropMissing();
    SyncGroup(1 + group_);
  }

  // Columns without a query never ask for a key.
  __device__ void DropMissing() {
    const int tokens = TileTokens(share_);
    const int64_t begin = l_.args.begin, end = begin + l_.args.rows;
#pragma unroll
    for (int j = 0; j < kPairs; ++j) {
      const int query = 8 * j + 2 * (lane_ % 4);
      const auto missing = [&](int q) {
        const int token = q / share_;
        return token >= tokens || first_ + token < begin || first_ + token >= end;
      };
      if (missing(query)) log_sum_[j].x = __ushort_as_half(0x7c00);
      if (missing(query + 1)) log_sum_[j].y = __ushort_as_half(0x7c00);
    }
  }

  __device__ void Choose(int page) {
    __half2 high[2] = {__hsub2(Half2Of(scores_[0]), log_sum_[0]),
                       __hsub2(Half2Of(scores_[1]), log_sum_[0])};
#pragma unroll
    for (int j = 1; j < kPairs; ++j) {
      high[0] = __hmax2(high[0], __hsub2(Half2Of(scores_[2 * j]), log_sum_[j]));
      high[1] = __hmax2(high[1], __hsub2(Half2Of(scores_[2 * j + 1]), log_sum_[j]));
    }
    __half2 both =
        __halves2half2(__hmax(high[0].x, high[0].y), __hmax(high[1].x, high[1].y));
    both = __hmax2(both, __shfl_xor_sync(kAll, both, 1));
    both = __hmax2(both, __shfl_xor_sync(kAll, both, 2));
    // Of four lanes that have the same two keys, the first two judge one each.
    const float share = __half2float(lane_ & 1 ? both.y : both.x);
    const int key = 16 * warp_ + lane_ / 4 + 8 * (lane_ & 1);
    const float chance = fmaf(share, 1 / kScoreUnits, -l_.args.log2_tau);
    const float draw = __uint2float_rz(
        MixBits(start_ + static_cast<uint32_t>(page * kPageTokens + key) * 0x9e3779b9u));
    const bool taken = (lane_ & 2) == 0 && draw < exp2f(chance + 32);
    const unsigned mask = __ballot_sync(kAll, taken);
    if (mask != 0) Take(mask, taken, key, fminf(chance, 0));
    // Keys that are sure to be read count for the sums, and the others of a few pages,
    // for as many more.
    const bool sampled =
        (static_cast<uint32_t>(page) + start_) % tuning::kSampledPages == 0;
    const unsigned sure = __ballot_sync(kAll, chance >= 0);
    if (sure != 0 || sampled) Add(sure, sampled);
  }

  __device__ void Take(unsigned mask, bool taken, int key, float chance) {
    const int at = chosen_ + __popc(mask & ((1u << lane_) - 1));
    if (taken && at < l_.work.capacity) {
      l_.work.lists[list_ + at] = {cache_block_ * kPageTokens + key, -chance};
    }
    chosen_ += __popc(mask);
  }

  // sure: bit 4 i of the first key of four lanes, 4 i + 1 of the second.
  __device__ void Add(unsigned sure, bool sampled) {
    const __half2 unit = __float2half2_rn(1 / kScoreUnits);
    const __half2 most = __float2half2_rn(kMostLog2);
    __half2 times[2];  // log2
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const bool is_sure = sure >> (lane_ / 4 * 4 + half) & 1;
      times[half] = __float2half2_rn(is_sure   ? 0
                                     : sampled ? tuning::kSampledLog2
                                               : -INFINITY);
    }
#pragma unroll
    for (int j = 0; j < kPairs; ++j) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const __half2 share = __hsub2(Half2Of(scores_[2 * j + half]), log_sum_[j]);
        sum_[j] =
            __hadd2(sum_[j], Exp2(__hmin2(__hfma2(share, unit, times[half]), most)));
      }
    }
  }

  const PrefillLaunch& l_;
  const Block& block_;
  ChooseMemory<kDim>& memory_;
  const int group_, warp_, lane_;
  int share_, first_;
  int64_t list_, count_;
  uint32_t start_;
  uint64_t queries_;
  uint32_t scores_[2 * kPairs];
  __half2 log_sum_[kPairs];  // of the softmax so far; at first the largest score
  __half2 sum_[kPairs];      // of what came since, over this lane's keys
  int chosen_ = 0;
  int cache_block_;  // of the page whose scores there are
};

template <int kDim>
__global__ void __launch_bounds__(kThreads, 2)
    ChooseKernel(const __grid_constant__ PrefillLaunch l) {
  extern __shared__ char shared[];
  auto& memory = *reinterpret_cast<ChooseMemory<kDim>*>(
      (reinterpret_cast<uintptr_t>(shared) + 1023) / 1024 * 1024);
  const Block block = Block::Of(l);
  if (threadIdx.x == 0) {
    InitBarrier(SharedAddress(&memory.queries_here), 1);
    for (int i = 0; i < kStages; ++i) {
      InitBarrier(SharedAddress(&memory.full[i]), 1);
      InitBarrier(SharedAddress(&memory.empty[i]), kTilesABlock * kLists);
    }
    PublishBarriers();
    BringQueries<kDim>(l, block, memory);
    for (int i = 0; i < kStages; ++i) BringStage<kDim>(l, block, i, memory);
  }
  __syncthreads();
  Chooser<kDim>(l, block, memory).Run();
}

template <int kDim>
cudaError_t Launch(const PrefillLaunch& l, cudaStream_t stream) {
  constexpr int kBytes = sizeof(ChooseMemory<kDim>) + 1024;
  const cudaError_t error = cudaFuncSetAttribute(
      ChooseKernel<kDim>, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes);
  if (error != cudaSuccess) return error;
  ChooseKernel<kDim><<<static_cast<unsigned>(l.work.tiles / 2 * l.args.kv_heads),
                       kThreads, kBytes, stream>>>(l);
  return cudaGetLastError();
}

}  // namespace

cudaError_t ChooseKeys(const PrefillLaunch& l, cudaStream_t stream) {
  return l.args.head_dim == 64 ? Launch<64>(l, stream) : Launch<128>(l, stream);
}

}  // namespace quire::kernels::cuda

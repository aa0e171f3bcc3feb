#include <algorithm>

#include "core/kernels/cuda/barriers.cuh"
#include "core/kernels/cuda/dependent_launch.cuh"
#include "core/kernels/cuda/device_attribute.h"
#include "core/kernels/cuda/linear_stream.h"
#include "core/kernels/cuda/mma.cuh"
#include "core/kernels/cuda/tuning.h"
#include "core/kernels/cuda/warp.cuh"

// A large weight streams: there is a block for each multiprocessor, or nearly, and each
// has as many rows of the weight as the others, one more or less. Its last warp only
// sends for them: a group of kGroup rows in stages of kChannels, through a ring in shared
// memory. The others divide a stage's channels, for all of its rows.
//
// Lane l reads 16 bytes of rows l / 4 and l / 4 + 8 of a tile of 16, straight into the
// fragments of tensor cores: channels 8 (l % 4) .. + 8 of a chunk of 32. An instruction
// wants 2 (l % 4) and the next, and these + 8, but a sum over channels does not mind
// which is called what, as long as x and weight agree: the first two words of the 16
// bytes make one instruction, the others the next one.
//
// The ring is filled before the kernel before is over: that one computes x.
namespace quire::kernels::cuda {
namespace {

constexpr int kMultiplyWarps = tuning::kStreamWarps;
constexpr int kMultiplyThreads = kMultiplyWarps * kWarp;
constexpr int kThreads = kMultiplyThreads + kWarp;
constexpr int kChannels = tuning::kStreamChannels;
constexpr int kChunk = 32;
constexpr int kTiles = 2;
constexpr int kGroup = 16 * kTiles;
static_assert(kGroup == kWarp);  // a lane sends for a row
// Rows of a stage stand so far apart that eight of them lie in different banks.
constexpr int kPitch = kChannels * 2 + 64;
constexpr int kStageBytes = kGroup * kPitch;
constexpr int kBarrierBytes = 16;  // of a stage: that it is full, that it is empty

// Stages between the warp that sends for them and those that read them. A thread goes
// through them in their order.
class StageRing {
 public:
  __device__ StageRing(int stages, char* shared, bool sends)
      : stages_(stages),
        base_(SharedAddress(shared)),
        once_(ReadOnce()),
        parity_(sends ? 1 : 0) {}

  // By one thread of the block, before all others use it.
  __device__ void Init() const {
    for (int s = 0; s < stages_; ++s) {
      InitBarrier(Full() + s * kBarrierBytes, 1);
      InitBarrier(Empty() + s * kBarrierBytes, kMultiplyThreads);
    }
    PublishBarriers();
  }

  // What the warp's lane sends for: `bytes` of `row`, nothing if that is null. rows: that
  // the warp's lanes have.
  __device__ void Send(const Bf16* row, uint32_t bytes, int rows) {
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    const uint32_t full = Full() + stage_ * kBarrierBytes;
    WaitForPhase(Empty() + stage_ * kBarrierBytes, parity_);
    if (lane == 0) ArriveAndExpect(full, static_cast<uint32_t>(rows) * bytes);
    __syncwarp();
    if (row != nullptr) CopyBulkOnce(Stage() + lane * kPitch, row, bytes, full, once_);
    Next();
  }

  // The next stage, when it is full.
  __device__ uint32_t Await() const {
    WaitForPhase(Full() + stage_ * kBarrierBytes, parity_);
    return Stage();
  }
  // When the lane has read it. loaded: something of all that it loaded. A load is under
  // way until something needs it, and may be overtaken by an arrival, and so by what is
  // sent for then; therefore where to arrive depends on `loaded`, as far as the compiler
  // can know.
  __device__ void Release(uint32_t loaded) {
    const uint32_t zero = static_cast<uint32_t>(stages_) >> 16;
    PublishToAsync();
    Arrive(Empty() + stage_ * kBarrierBytes + (loaded & zero));
    Next();
  }

 private:
  __device__ uint32_t Stage() const { return base_ + stage_ * kStageBytes; }
  __device__ uint32_t Full() const { return base_ + stages_ * kStageBytes; }
  __device__ uint32_t Empty() const { return Full() + kBarrierBytes / 2; }
  __device__ void Next() {
    if (++stage_ < stages_) return;
    stage_ = 0;
    parity_ ^= 1;
  }

  const int stages_;
  const uint32_t base_;
  const uint64_t once_;
  int stage_ = 0;
  uint32_t parity_;
};

// A block's part of the features. kHalves: of 8 rows of x each.
template <int kHalves, typename Out, bool kGated>
class LinearBlock {
 public:
  // Of a group: the gated layer's have a row each of the gate, and of what it gates, that
  // are rows of the same tile 8 apart.
  static constexpr int kFeatures = kGated ? kGroup / 2 : kGroup;
  static constexpr int kTileSums = 16 * 8;
  static constexpr int kSums = kTiles * kHalves * kTileSums;  // of a warp
  // Those of a group are added up while the next ones are made, if that leaves room for a
  // third stage.
  static constexpr int kBuffers = kHalves == 1 ? 2 : 1;
  static constexpr int kBufferFloats = kMultiplyWarps * kSums;
  static constexpr int kSumBytes = kBuffers * kBufferFloats * 4;

  __device__ explicit LinearBlock(const LinearArgs& a)
      : a_(a), in_(static_cast<int>(a.in)), features_(static_cast<int>(a.features)) {
    const int block = static_cast<int>(blockIdx.x), blocks = static_cast<int>(gridDim.x);
    const int each = features_ / blocks, more = features_ % blocks;
    begin_ = block * each + min(block, more);
    end_ = begin_ + each + (block < more ? 1 : 0);
  }

  // By the last warp.
  __device__ void Send(StageRing& ring) const {
    const int feature = kGated ? Lane() / 16 * 8 + Lane() % 8 : Lane();
    const int part = kGated ? Lane() / 8 % 2 : 0;
    for (int first = begin_; first < end_; first += kFeatures) {
      const int count = min(kFeatures, end_ - first);
      const Bf16* const row =
          feature < count
              ? a_.weight + static_cast<int64_t>(part * features_ + first + feature) * in_
              : nullptr;
      for (int channel = 0; channel < in_; channel += kChannels) {
        ring.Send(row == nullptr ? nullptr : row + channel,
                  min(kChannels, in_ - channel) * 2, kGated ? 2 * count : count);
      }
    }
  }

  // By the others. sums: kSumBytes of shared memory.
  __device__ void Multiply(StageRing& ring, float* sums) const {
    const Bf16* x[kHalves];
    for (int h = 0; h < kHalves; ++h) {
      // Rows that x does not have come to sums that nobody asks for.
      const int row = 8 * h + Lane() / 4;
      x[h] = a_.x + static_cast<int64_t>(row < a_.rows ? row : 0) * in_ + Lane() % 4 * 8;
    }
    Sums sum = {};
    for (int first = begin_; first < end_; first += kFeatures) {
      for (int channel = 0; channel < in_; channel += kChannels) {
        MultiplyStage(x, channel / kChunk + Warp() * kChunks, ring, sum);
      }
      float* const buffer =
          sums + (first - begin_) / kFeatures % kBuffers * kBufferFloats;
      Put(sum, buffer + Warp() * kSums);
      SyncMultiplyWarps();
      Deliver(first, buffer);
      // With two, the next group's barrier is between this one's sums and those after.
      if (kBuffers == 1) SyncMultiplyWarps();
    }
  }

 private:
  static constexpr int kChunks = kChannels / kChunk / kMultiplyWarps;  // a warp's
  // Of the even and the odd instructions, so that they need not wait for each other.
  using Sums = float[kTiles][kHalves][2][4];

  __device__ static void SyncMultiplyWarps() {
    asm volatile("bar.sync 1, %0;\n" ::"n"(kMultiplyThreads) : "memory");
  }
  __device__ static int Lane() { return static_cast<int>(threadIdx.x) % kWarp; }
  __device__ static int Warp() { return static_cast<int>(threadIdx.x) / kWarp; }

  // The warp's chunks of a stage, from `first` on.
  __device__ void MultiplyStage(const Bf16* const (&x)[kHalves], int first,
                                StageRing& ring, Sums& sum) const {
    const int chunks = in_ / kChunk;
    uint4 rows[kChunks][kHalves];
#pragma unroll
    for (int i = 0; i < kChunks; ++i) {
#pragma unroll
      for (int h = 0; h < kHalves; ++h) {  // past the last chunk any will do
        rows[i][h] = LoadGlobal16(x[h] + min(first + i, chunks - 1) * kChunk);
      }
    }
    const uint32_t from = ring.Await() + Lane() / 4 * kPitch +
                          (Warp() * kChunks * kChunk + Lane() % 4 * 8) * 2;
    uint32_t loaded = 0;
    uint4 weight[kTiles][kChunks][2];
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
#pragma unroll
      for (int i = 0; i < kChunks; ++i) {
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          weight[t][i][j] =
              LoadShared16(from + (16 * t + 8 * j) * kPitch + i * kChunk * 2);
          loaded |= weight[t][i][j].x;
        }
      }
    }
    ring.Release(loaded);
#pragma unroll
    for (int i = 0; i < kChunks; ++i) {
      if (first + i >= chunks) break;
#pragma unroll
      for (int t = 0; t < kTiles; ++t) {
        const uint4 &u = weight[t][i][0], &v = weight[t][i][1];
#pragma unroll
        for (int h = 0; h < kHalves; ++h) {
          const uint4& y = rows[i][h];
          MultiplyAdd(sum[t][h][0], {{u.x, v.x, u.y, v.y}}, y.x, y.y);
          MultiplyAdd(sum[t][h][1], {{u.z, v.z, u.w, v.w}}, y.z, y.w);
        }
      }
    }
  }

  // The warp's sums, [tile][half][row of the tile][row of x], which begin anew.
  __device__ static void Put(Sums& sum, float* to) {
    to += Lane() / 4 * 8 + Lane() % 4 * 2;
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
#pragma unroll
      for (int h = 0; h < kHalves; ++h) {
        float(&even)[4] = sum[t][h][0], (&odd)[4] = sum[t][h][1];
        float* const tile = to + (t * kHalves + h) * kTileSums;
        *reinterpret_cast<float2*>(tile) = {even[0] + odd[0], even[1] + odd[1]};
        *reinterpret_cast<float2*>(tile + 8 * 8) = {even[2] + odd[2], even[3] + odd[3]};
#pragma unroll
        for (int i = 0; i < 4; ++i) even[i] = odd[i] = 0;
      }
    }
  }

  // A group's results, from all warps' sums.
  __device__ void Deliver(int first, const float* sums) const {
    constexpr int kTile = kFeatures / kTiles;  // features
    for (int i = static_cast<int>(threadIdx.x); i < kFeatures * kHalves * 8;
         i += kMultiplyThreads) {
      const int row = i % 8 + i / (8 * kTile) % kHalves * 8, in_tile = i / 8 % kTile;
      const int tile = i / (8 * kTile * kHalves);
      const int feature = first + tile * kTile + in_tile;
      if (row >= a_.rows || feature >= end_) continue;
      const float* const from =
          sums + (tile * kHalves + row / 8) * kTileSums + in_tile * 8 + row % 8;
      float whole = Sum(from, feature);
      if (kGated) {
        whole = whole / (1 + expf(-whole)) * Sum(from + 8 * 8, features_ + feature);
      }
      static_cast<Out*>(a_.out)[row * a_.features + feature] = static_cast<Out>(whole);
    }
  }
  __device__ float Sum(const float* of_warps, int biased) const {
    float sum = a_.bias == nullptr ? 0 : __bfloat162float(a_.bias[biased]);
#pragma unroll
    for (int w = 0; w < kMultiplyWarps; ++w) sum += of_warps[w * kSums];
    return sum;
  }

  const LinearArgs& a_;
  const int in_, features_;
  int begin_, end_;  // the block's features
};

template <int kHalves, typename Out, bool kGated>
__global__ void __launch_bounds__(kThreads, 1) StreamKernel(LinearArgs a, int stages) {
  extern __shared__ __align__(128) char shared[];
  const LinearBlock<kHalves, Out, kGated> block(a);
  const bool sends = threadIdx.x >= kMultiplyThreads;
  StageRing ring(stages, shared, sends);
  LetTheNextBegin();
  if (threadIdx.x == 0) ring.Init();
  __syncthreads();
  if (sends) {
    block.Send(ring);
    WaitForTheOneBefore();
  } else {
    WaitForTheOneBefore();
    block.Multiply(
        ring, reinterpret_cast<float*>(shared + stages * (kStageBytes + kBarrierBytes)));
  }
}

// How many blocks divide groups of rows: a few less than multiprocessors, if the others
// would not be over earlier. (Where blocks of the kernel before end late, when they
// merge, none has to wait for its place then.)
int64_t StreamBlocks(int64_t groups, int64_t multiprocessors) {
  const int64_t each = (groups + multiprocessors - 1) / multiprocessors;
  const int64_t blocks = (groups + each - 1) / each;
  const bool few_idle = blocks * 100 >= tuning::kStreamBusyPercent * multiprocessors;
  return few_idle ? blocks : multiprocessors;
}

// As many stages as there is room for, and a block has.
template <int kHalves, typename Out, bool kGated>
cudaError_t Launch(const LinearArgs& a, cudaStream_t stream) {
  using Block = LinearBlock<kHalves, Out, kGated>;
  int multiprocessors = 0, shared = 0;
  cudaError_t error = DeviceAttribute(cudaDevAttrMultiProcessorCount, multiprocessors);
  if (error != cudaSuccess) return error;
  error = DeviceAttribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, shared);
  if (error != cudaSuccess) return error;
  const int64_t groups = (a.features + Block::kFeatures - 1) / Block::kFeatures;
  const int64_t blocks = std::min(StreamBlocks(groups, multiprocessors), a.features);
  const int64_t features = (a.features + blocks - 1) / blocks;
  const int64_t of_block = (features + Block::kFeatures - 1) / Block::kFeatures *
                           ((a.in + kChannels - 1) / kChannels);
  const int64_t room = (shared - Block::kSumBytes) / (kStageBytes + kBarrierBytes);
  const auto stages = static_cast<int>(std::max<int64_t>(1, std::min(of_block, room)));
  const int bytes = stages * (kStageBytes + kBarrierBytes) + Block::kSumBytes;
  const auto kernel = StreamKernel<kHalves, Out, kGated>;
  error =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  if (error != cudaSuccess) return error;
  return LaunchDependent(kernel, static_cast<unsigned>(blocks), kThreads,
                         static_cast<size_t>(bytes), stream, a, stages);
}

template <int kHalves>
cudaError_t LaunchFor(const LinearArgs& a, cudaStream_t stream) {
  if (a.gated) return Launch<kHalves, Bf16, true>(a, stream);
  return a.float_out ? Launch<kHalves, float, false>(a, stream)
                     : Launch<kHalves, Bf16, false>(a, stream);
}

}  // namespace

cudaError_t StreamLinear(const LinearArgs& args, cudaStream_t stream) {
  return args.rows <= 8 ? LaunchFor<1>(args, stream) : LaunchFor<2>(args, stream);
}

}  // namespace quire::kernels::cuda

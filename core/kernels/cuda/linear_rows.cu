#include "core/kernels/cuda/cuda_kernels.h"
#include "core/kernels/cuda/dependent_launch.cuh"
#include "core/kernels/cuda/device_attribute.h"
#include "core/kernels/cuda/linear_stream.h"
#include "core/kernels/cuda/mma.cuh"
#include "core/kernels/cuda/tuning.h"
#include "core/kernels/cuda/warp.cuh"

// A linear layer of few rows is read rather than computed: what counts is that the
// weight streams. (A large one does it better through shared memory: linear_stream.cu.)
// A block has kFeatures rows of the weight, its warps divide their channels; lanes load
// 16 bytes each, straight into the fragments of tensor cores.
//
// Lane l has channels 8 (l % 4) .. + 8 of a chunk of 32, of row l / 4 of its fragments.
// An instruction wants 2 (l % 4) and the next, and these + 8, but a sum over channels
// does not mind which is called what, as long as x and weight agree: the first two
// words of the 16 bytes make one instruction, the others the next one.
//
// The first loads of the weight do not wait for the kernel before: it computes x.
namespace quire::kernels::cuda {
namespace {

constexpr int kWarps = tuning::kLinearWarps;
constexpr int kThreads = kWarps * kWarp;
constexpr int kFeatures = 8;
constexpr int kChunk = 32;

// Weights are used once, and should not drive x out of the nearest cache. once:
// ReadOnce().
__device__ uint4 LoadOnce(const Bf16* from, uint64_t once) {
  uint4 x;
  asm volatile(
      "ld.global.L1::no_allocate.L2::cache_hint.v4.u32 {%0,%1,%2,%3}, [%4], %5;\n"
      : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w)
      : "l"(from), "l"(once)
      : "memory");
  return x;
}

// kHalves: of 8 rows of x each. kParts: of the weight, that a block reads side by side.
template <int kHalves, int kParts>
class Accumulate {
 public:
  __device__ explicit Accumulate(const LinearArgs& a) : once_(ReadOnce()) {
    const int lane = static_cast<int>(threadIdx.x) % kWarp, row = lane / 4;
    chunks_ = static_cast<int>(a.in / kChunk);
    for (int p = 0; p < kParts; ++p) {
      const int64_t feature =
          p * a.features + static_cast<int64_t>(blockIdx.x) * kFeatures + row;
      weight_[p] = a.weight + feature * a.in + lane % 4 * 8;
    }
    for (int h = 0; h < kHalves; ++h) {
      // Rows that x does not have come to sums that nobody asks for.
      const int64_t of = 8 * h + row < a.rows ? 8 * h + row : 0;
      x_[h] = a.x + of * a.in + lane % 4 * 8;
    }
  }

  // Sums of the even and the odd instructions, so that they need not wait for each other.
  using Sums = float[kParts][2][4];

  __device__ void Run(Sums& sum) {
    const int first = static_cast<int>(threadIdx.x) / kWarp * kGroup;
    Weights weights;
    Load(first, weights);
    WaitForTheOneBefore();
    for (int group = first; group < chunks_; group += kWarps * kGroup) {
#pragma unroll
      for (int part = 0; part < kGroup; part += kAtATime) {
        // x, which is near, before the next of the weight: what a warp asks for comes in
        // the order in which it was asked for.
        uint4 x[kAtATime][2] = {};
#pragma unroll
        for (int i = 0; i < kAtATime; ++i) LoadX(group + part + i, x[i]);
        Weights next;
        Load(part + kAtATime < kGroup ? group + part + kAtATime : group + kWarps * kGroup,
             next);
#pragma unroll
        for (int i = 0; i < kAtATime; ++i) Multiply(x[i], weights[i], sum);
#pragma unroll
        for (int i = 0; i < kAtATime; ++i) {
#pragma unroll
          for (int p = 0; p < kParts; ++p) weights[i][p] = next[i][p];
        }
      }
    }
  }

 private:
  // Chunks of a warp one after another: as many whatever the rows, so that a row's sums
  // do not depend on how many there are.
  static constexpr int kGroup = tuning::LinearLoads(1, kParts);
  // Chunks that are loaded together: as many as there are registers for.
  static constexpr int kAtATime = tuning::LinearLoads(kHalves, kParts);
  static_assert(kGroup % kAtATime == 0);

  using Weights = uint4[kAtATime][kParts];

  // Chunks past the last one are zeros.
  __device__ void Load(int chunk, Weights& weights) const {
#pragma unroll
    for (int i = 0; i < kAtATime; ++i) {
#pragma unroll
      for (int p = 0; p < kParts; ++p) {
        weights[i][p] = chunk + i < chunks_
                            ? LoadOnce(weight_[p] + (chunk + i) * kChunk, once_)
                            : uint4{};
      }
    }
  }

  // Past the last one any chunk will do.
  __device__ void LoadX(int chunk, uint4 (&x)[2]) const {
    const int valid = min(chunk, chunks_ - 1);
#pragma unroll
    for (int h = 0; h < kHalves; ++h) x[h] = LoadGlobal16(x_[h] + valid * kChunk);
  }

  __device__ static void Multiply(const uint4 (&x)[2], const uint4 (&weights)[kParts],
                                  Sums& sum) {
#pragma unroll
    for (int p = 0; p < kParts; ++p) {
      const uint4& w = weights[p];
      MultiplyAdd(sum[p][0], {{x[0].x, x[1].x, x[0].y, x[1].y}}, w.x, w.y);
      MultiplyAdd(sum[p][1], {{x[0].z, x[1].z, x[0].w, x[1].w}}, w.z, w.w);
    }
  }

  const uint64_t once_;
  int chunks_;
  const Bf16* weight_[kParts];
  const Bf16* x_[kHalves];
};

template <int kHalves, typename Out, bool kGated>
__global__ void __launch_bounds__(kThreads, 4) LinearKernel(LinearArgs a) {
  constexpr int kParts = kGated ? 2 : 1;
  constexpr int kSums = 16 * kFeatures;
  static_assert(kSums == kThreads);
  __shared__ float sums[kParts][kWarps][kSums];
  LetTheNextBegin();
  typename Accumulate<kHalves, kParts>::Sums sum = {};
  Accumulate<kHalves, kParts>(a).Run(sum);
  // Of rows l / 4 and these + 8, features 2 (l % 4) and the next.
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int at = lane / 4 * kFeatures + lane % 4 * 2;
  for (int p = 0; p < kParts; ++p) {
    float* const to = sums[p][threadIdx.x / kWarp] + at;
    const auto& even = sum[p][0];
    const auto& odd = sum[p][1];
    *reinterpret_cast<float2*>(to) = {even[0] + odd[0], even[1] + odd[1]};
    *reinterpret_cast<float2*>(to + 8 * kFeatures) = {even[2] + odd[2], even[3] + odd[3]};
  }
  __syncthreads();
  const int row = static_cast<int>(threadIdx.x) / kFeatures;
  if (row >= a.rows) return;
  const int64_t feature =
      static_cast<int64_t>(blockIdx.x) * kFeatures + threadIdx.x % kFeatures;
  float whole[kParts];
  for (int p = 0; p < kParts; ++p) {
    whole[p] = a.bias == nullptr ? 0 : __bfloat162float(a.bias[p * a.features + feature]);
    for (int w = 0; w < kWarps; ++w) whole[p] += sums[p][w][threadIdx.x];
  }
  if (kGated) whole[0] = whole[0] / (1 + expf(-whole[0])) * whole[kParts - 1];
  static_cast<Out*>(a.out)[row * a.features + feature] = static_cast<Out>(whole[0]);
}

template <int kHalves>
auto KernelFor(const LinearArgs& a) {
  if (a.gated) return LinearKernel<kHalves, Bf16, true>;
  return a.float_out ? LinearKernel<kHalves, float, false>
                     : LinearKernel<kHalves, Bf16, false>;
}

}  // namespace

bool HasLinearKernel(int64_t rows, int64_t in, int64_t features) {
  return rows <= kMaxLinearRows && in % kChunk == 0 && features % kFeatures == 0;
}

bool StreamsLinear(int64_t weight_bytes) {
  int major = 0;
  return weight_bytes >= tuning::kStreamedBytes &&
         DeviceAttribute(cudaDevAttrComputeCapabilityMajor, major) == cudaSuccess &&
         major == 9;
}

cudaError_t LinearRows(const LinearArgs& args, cudaStream_t stream) {
  const int64_t weights = (args.gated ? 2 : 1) * args.features * args.in;
  if (StreamsLinear(weights * static_cast<int64_t>(sizeof(Bf16)))) {
    return StreamLinear(args, stream);
  }
  const auto kernel = args.rows <= 8 ? KernelFor<1>(args) : KernelFor<2>(args);
  // Loads that are under way have their places in the L1, of which a kernel that shared
  // nearly all of a multiprocessor's memory leaves too little.
  const cudaError_t error =
      cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                           tuning::kLinearSharedPercent);
  if (error != cudaSuccess) return error;
  return LaunchDependent(kernel, static_cast<unsigned>(args.features / kFeatures),
                         kThreads, 0, stream, args);
}

}  // namespace quire::kernels::cuda

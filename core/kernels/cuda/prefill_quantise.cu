#include <cuda_fp8.h>

#include "core/kernels/cuda/hopper.cuh"
#include "core/kernels/cuda/prefill_workspace.cuh"

// The first launch of RefinedPrefill: keys and queries in 8 bits. A constant vector is
// taken off all keys of a head, the mean of a sample: it moves all scores of a row alike,
// and without it channels that are large in every key would be rounded coarsely.
namespace quire::kernels::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kSamples = 256, kSampleRows = 8;

__global__ void MeanKernel(PrefillLaunch l) {
  __shared__ float sums[kSampleRows][128];
  const RefinedPrefillArgs& a = l.args;
  const int head = static_cast<int>(blockIdx.x), channel = static_cast<int>(threadIdx.x);
  const int64_t end = a.begin + a.rows;
  const int samples = end < kSamples ? static_cast<int>(end) : kSamples;
  float sum = 0;
  for (int i = static_cast<int>(threadIdx.y); i < samples; i += kSampleRows) {
    const int64_t position = i * end / samples;
    const int64_t row =
        (static_cast<int64_t>(a.pages[position / kPageTokens]) * a.kv_heads + head) *
            kPageTokens +
        position % kPageTokens;
    sum += __bfloat162float(a.k[row * a.head_dim + channel]);
  }
  sums[threadIdx.y][channel] = sum;
  __syncthreads();
  if (threadIdx.y > 0) return;
  for (int i = 1; i < kSampleRows; ++i) sum += sums[i][channel];
  l.work.mean[head * a.head_dim + channel] = sum / static_cast<float>(samples);
}

__device__ uint32_t FourE4m3(float a, float b, float c, float d) {
  const uint32_t low =
      __nv_cvt_float2_to_fp8x2(make_float2(a, b), __NV_SATFINITE, __NV_E4M3);
  const uint32_t high =
      __nv_cvt_float2_to_fp8x2(make_float2(c, d), __NV_SATFINITE, __NV_E4M3);
  return low | high << 16;
}

// 16 values become 16 bytes: (x - mean) factor.
__device__ uint4 Quantise(const Bf16* x, const float* mean, float factor) {
  uint4 pair[2] = {reinterpret_cast<const uint4*>(x)[0],
                   reinterpret_cast<const uint4*>(x)[1]};
  const Bf16* const value = reinterpret_cast<const Bf16*>(pair);
  uint32_t words[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    float f[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      f[j] =
          (__bfloat162float(value[4 * i + j]) - (mean == nullptr ? 0 : mean[4 * i + j])) *
          factor;
    }
    words[i] = FourE4m3(f[0], f[1], f[2], f[3]);
  }
  return make_uint4(words[0], words[1], words[2], words[3]);
}

// A block a page of a head.
template <int kDim>
__global__ void __launch_bounds__(kThreads) KeysKernel(PrefillLaunch l) {
  const RefinedPrefillArgs& a = l.args;
  const int page = static_cast<int>(blockIdx.x), head = static_cast<int>(blockIdx.y);
  const int64_t end = a.begin + a.rows;
  const Bf16* const from =
      a.k +
      (static_cast<int64_t>(a.pages[page]) * a.kv_heads + head) * kPageTokens * kDim;
  uint8_t* const to = l.work.keys + (static_cast<int64_t>(head) * l.work.pages + page) *
                                        kPageTokens * kDim;
  constexpr int kChunks = kDim / 16;
  for (int i = static_cast<int>(threadIdx.x); i < kPageTokens * kChunks; i += kThreads) {
    const int row = i / kChunks, chunk = i % kChunks;
    uint4 bytes = make_uint4(0, 0, 0, 0);
    if (static_cast<int64_t>(page) * kPageTokens + row < end) {
      bytes = Quantise(from + row * kDim + chunk * 16,
                       l.work.mean + head * kDim + chunk * 16, 1);
    }
    *reinterpret_cast<uint4*>(to + row * kDim + SwizzledChunk<kDim>(row, chunk) * 16) =
        bytes;
  }
}

// A block a tile of a head.
template <int kDim>
__global__ void __launch_bounds__(kThreads) QueriesKernel(PrefillLaunch l) {
  const RefinedPrefillArgs& a = l.args;
  const int tile = static_cast<int>(blockIdx.x), head = static_cast<int>(blockIdx.y);
  const int share = a.query_heads / a.kv_heads, tokens = TileTokens(share);
  const int64_t first = static_cast<int64_t>(2 * l.work.first_pair + tile) * tokens;
  const float factor = a.scale * 1.44269504f * kScoreUnits;
  uint8_t* const to = l.work.queries +
                      (static_cast<int64_t>(tile) * a.kv_heads + head) * kTileRows * kDim;
  constexpr int kChunks = kDim / 16;
  for (int i = static_cast<int>(threadIdx.x); i < kTileRows * kChunks; i += kThreads) {
    const int row = i / kChunks, chunk = i % kChunks;
    const int token = row / share;
    const int64_t step_row = first + token - a.begin;
    uint4 bytes = make_uint4(0, 0, 0, 0);
    if (token < tokens && step_row >= 0 && step_row < a.rows) {
      const int64_t q = step_row * a.query_heads + head * share + row % share;
      bytes = Quantise(a.q + q * kDim + chunk * 16, nullptr, factor);
    }
    *reinterpret_cast<uint4*>(to + row * kDim + SwizzledChunk<kDim>(row, chunk) * 16) =
        bytes;
  }
}

template <int kDim>
cudaError_t Launch(const PrefillLaunch& l, cudaStream_t stream) {
  const auto heads = static_cast<unsigned>(l.args.kv_heads);
  MeanKernel<<<heads, dim3(kDim, kSampleRows), 0, stream>>>(l);
  KeysKernel<kDim>
      <<<dim3(static_cast<unsigned>(l.work.pages), heads), kThreads, 0, stream>>>(l);
  QueriesKernel<kDim>
      <<<dim3(static_cast<unsigned>(l.work.tiles), heads), kThreads, 0, stream>>>(l);
  return cudaGetLastError();
}

}  // namespace

cudaError_t QuantisePrefill(const PrefillLaunch& l, cudaStream_t stream) {
  return l.args.head_dim == 64 ? Launch<64>(l, stream) : Launch<128>(l, stream);
}

}  // namespace quire::kernels::cuda

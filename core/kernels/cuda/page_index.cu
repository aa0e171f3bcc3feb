#include "core/kernels/cuda/refined.h"
#include "core/kernels/cuda/warp.cuh"

namespace quire::kernels::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kMaxDim = 128;

// Four channels' codes, a byte each.
__device__ uint32_t Codes(const Bf16* key, const float* mean, float inverse) {
  uint32_t word = 0;
  for (int i = 0; i < 4; ++i) {
    const float x = (__bfloat162float(key[i]) - mean[i]) * inverse;
    word |= static_cast<uint32_t>(__float2int_rn(x) + 8) << (8 * i);
  }
  return word;
}

// A block a page of a head, a warp a key.
__global__ void IndexKernel(const Bf16* cache, const int32_t* blocks, int32_t kv_heads,
                            int32_t dim, uint8_t* index) {
  __shared__ float mean[kMaxDim];
  __shared__ __align__(16) Bf16 keys[kPageTokens * kMaxDim];
  const int64_t slot = static_cast<int64_t>(blocks[blockIdx.x]) * kv_heads + blockIdx.y;
  const auto* const from =
      reinterpret_cast<const uint4*>(cache + slot * kPageTokens * dim);
  for (int i = static_cast<int>(threadIdx.x); i < kPageTokens * dim / 8; i += kThreads) {
    reinterpret_cast<uint4*>(keys)[i] = from[i];
  }
  __syncthreads();
  uint8_t* const page = index + slot * IndexPageBytes(dim);
  float* const scales = reinterpret_cast<float*>(page + kPageTokens * dim / 2);
  Bf16* const means = reinterpret_cast<Bf16*>(scales + kPageTokens);
  for (int i = static_cast<int>(threadIdx.x); i < dim; i += kThreads) {
    float sum = 0;
    for (int j = 0; j < kPageTokens; ++j) sum += __bfloat162float(keys[j * dim + i]);
    // Codes are of the distance to the mean as it is kept.
    means[i] = __float2bfloat16(sum / kPageTokens);
    mean[i] = __bfloat162float(means[i]);
  }
  __syncthreads();
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  for (int j = static_cast<int>(threadIdx.x) / kWarp; j < kPageTokens;
       j += kThreads / kWarp) {
    const Bf16* const key = keys + j * dim;
    float high = 0;
    for (int i = lane; i < dim; i += kWarp) {
      high = fmaxf(high, fabsf(__bfloat162float(key[i]) - mean[i]));
    }
    high = WarpMax(high);
    // Just under 7.5: the farthest channel must not lie on a border between two codes.
    const float inverse = high > 0 ? 7.49f / high : 0;
    const int v = j / 16, h = j / 8 % 2, r = j % 8;
    if (lane == 0) scales[r * 8 + v * 2 + h] = high / 7.49f;
    for (int c = lane; c < dim / 8; c += kWarp) {
      const uint32_t low = Codes(key + 4 * c, mean + 4 * c, inverse);
      const uint32_t top = Codes(key + 4 * c + dim / 2, mean + 4 * c + dim / 2, inverse);
      const int t = c / 4, l = c % 4;
      const int word = ((v * (dim / 64) + t / 2) * kWarp + 4 * r + l) * 4 + t % 2 * 2 + h;
      reinterpret_cast<uint32_t*>(page)[word] = low | top << 4;
    }
  }
}

}  // namespace

cudaError_t IndexPages(const Bf16* k, const int32_t* blocks, int64_t count,
                       int32_t kv_heads, int32_t head_dim, uint8_t* index,
                       cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(count), static_cast<unsigned>(kv_heads));
  IndexKernel<<<grid, kThreads, 0, stream>>>(k, blocks, kv_heads, head_dim, index);
  return cudaGetLastError();
}

}  // namespace quire::kernels::cuda

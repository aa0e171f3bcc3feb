#pragma once

#include <cuda_fp16.h>

#include <cstdint>

// What kernels that work by warps share.
namespace quire::kernels::cuda {

inline constexpr int kWarp = 32;
inline constexpr unsigned kAll = 0xffffffffu;
inline constexpr float kLog2E = 1.44269504088896f;

// x. What depends on it is computed after this, not ahead of loops that rarely come to
// it.
__device__ inline int FromHere(int x) {
  asm volatile("" : "+r"(x));
  return x;
}

// 2^x, approximately; denormal results are 0.
__device__ inline float FastExp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;\n" : "=f"(y) : "f"(x));
  return y;
}
// Approximately.
__device__ inline float FastSqrt(float x) {
  float y;
  asm("sqrt.approx.ftz.f32 %0, %1;\n" : "=f"(y) : "f"(x));
  return y;
}
// Of all lanes.
__device__ inline float WarpMax(float x) {
  const int bits = __float_as_int(x);
  const int ordered = bits ^ (bits >> 31 & 0x7fffffff);
  const int largest = __reduce_max_sync(kAll, ordered);
  return __int_as_float(largest ^ (largest >> 31 & 0x7fffffff));
}
__device__ inline float WarpSum(float x) {
#pragma unroll
  for (int step = kWarp / 2; step > 0; step /= 2) x += __shfl_xor_sync(kAll, x, step);
  return x;
}
// Of two halves.
__device__ inline __half2 Exp2(__half2 x) {
  uint32_t y;
  asm("ex2.approx.f16x2 %0, %1;\n" : "=r"(y) : "r"(*reinterpret_cast<uint32_t*>(&x)));
  return *reinterpret_cast<__half2*>(&y);
}

}  // namespace quire::kernels::cuda

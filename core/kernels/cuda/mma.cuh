#pragma once

#include <cuda_bf16.h>

#include <cstdint>

// The tensor-core and copy instructions that kernels use, by their PTX names (PTX
// ISA 8.0, sections on mma, ldmatrix, movmatrix and cp.async). sm_80 and later.
namespace quire::kernels::cuda {

// Lane l of a warp: row l / 4, columns 2 (l % 4) and the next of every 8x8 part.
struct Fragment {
  uint32_t x[4];
};

__device__ inline uint32_t SharedAddress(const void* shared) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(shared));
}

// 16 bytes, now: as a load of constants it would be moved behind a wait for the kernel
// before.
__device__ inline uint4 LoadGlobal16(const void* from) {
  uint4 x;
  asm volatile("ld.global.v4.u32 {%0,%1,%2,%3}, [%4];\n"
               : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w)
               : "l"(from)
               : "memory");
  return x;
}
__device__ inline uint4 LoadShared16(uint32_t from) {
  uint4 x;
  asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4];\n"
               : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w)
               : "r"(from)
               : "memory");
  return x;
}

__device__ inline float LoadShared(uint32_t from) {
  float x;
  asm volatile("ld.shared.f32 %0, [%1];\n" : "=f"(x) : "r"(from) : "memory");
  return x;
}
__device__ inline void StoreShared(uint32_t to, float x) {
  asm volatile("st.shared.f32 [%0], %1;\n" ::"r"(to), "f"(x) : "memory");
}

// 16 bytes, or zeros if not `valid`: then nothing is read.
__device__ inline void CopyAsync16(uint32_t shared, const void* global, bool valid) {
  const int bytes = valid ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(shared),
               "l"(global), "r"(bytes));
}
// For what nobody reads again before the L2 has forgotten it, that it keeps other things
// instead: without this, weights and caches that stream drive out the code of kernels,
// which multiprocessors then fetch from memory in every layer.
__device__ inline uint64_t ReadOnce() {
  uint64_t policy;
  asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;\n" : "=l"(policy));
  return policy;
}
// CopyAsync16; once: ReadOnce().
__device__ inline void CopyAsync16Once(uint32_t shared, const void* global, bool valid,
                                       uint64_t once) {
  const int bytes = valid ? 16 : 0;
  asm volatile(
      "cp.async.cg.shared.global.L2::cache_hint [%0], [%1], 16, %2, %3;\n" ::"r"(shared),
      "l"(global), "r"(bytes), "l"(once));
}
__device__ inline void CommitCopies() { asm volatile("cp.async.commit_group;\n" ::); }
// Until at most `kPending` of this thread's groups are under way.
template <int kPending>
__device__ inline void WaitForCopies() {
  asm volatile("cp.async.wait_group %0;\n" ::"n"(kPending) : "memory");
}

// Four 8x8 parts; lane l names the row l % 8 of part l / 8.
__device__ inline Fragment LoadMatrix(uint32_t row) {
  Fragment f;
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];\n"
               : "=r"(f.x[0]), "=r"(f.x[1]), "=r"(f.x[2]), "=r"(f.x[3])
               : "r"(row)
               : "memory");
  return f;
}
// The same, each part transposed.
__device__ inline Fragment LoadTransposed(uint32_t row) {
  Fragment f;
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];\n"
               : "=r"(f.x[0]), "=r"(f.x[1]), "=r"(f.x[2]), "=r"(f.x[3])
               : "r"(row)
               : "memory");
  return f;
}

__device__ inline uint32_t Transpose8x8(uint32_t x) {
  uint32_t y;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;\n" : "=r"(y) : "r"(x));
  return y;
}

__device__ inline uint32_t PackBf16(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&pair);
}

// sum [16, 8] += a [16, 16] b [16, 8].
__device__ inline void MultiplyAdd(float (&sum)[4], const Fragment& a, uint32_t b0,
                                   uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
      : "r"(a.x[0]), "r"(a.x[1]), "r"(a.x[2]), "r"(a.x[3]), "r"(b0), "r"(b1));
}

}  // namespace quire::kernels::cuda

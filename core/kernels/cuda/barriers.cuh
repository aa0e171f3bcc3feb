#pragma once

#include <cstdint>

// Barriers in shared memory, 8 bytes each, and copies that count for one, by their PTX
// names (PTX ISA 8.0, sections on mbarrier and cp.async.bulk; sm_90, but InitBarrier and
// Meet sm_80). A barrier's phase is over when all have arrived and all bytes that it
// expects are there; the first one has parity 0.
namespace quire::kernels::cuda {

__device__ inline void InitBarrier(uint32_t barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;\n" ::"r"(barrier), "r"(arrivals)
               : "memory");
}
// To copies that follow.
__device__ inline void PublishBarriers() {
  asm volatile("fence.mbarrier_init.release.cluster;\n" ::: "memory");
}
__device__ inline void Arrive(uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];\n" ::"r"(barrier) : "memory");
}
// Arrives; the phase waits for so many bytes, too.
__device__ inline void ArriveAndExpect(uint32_t barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;\n" ::"r"(barrier),
               "r"(bytes)
               : "memory");
}
// Until the phase of this parity is over.
__device__ inline void WaitForPhase(uint32_t barrier, uint32_t parity) {
  asm volatile(
      "{\n.reg .pred p;\nAGAIN:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n"
      "@p bra OVER;\nbra AGAIN;\nOVER:\n}\n" ::"r"(barrier),
      "r"(parity)
      : "memory");
}
// Arrives, and waits for all others. (try_wait, which sleeps, takes .3 us longer in
// refined decode's launch at 128K.)
__device__ inline void Meet(uint32_t barrier) {
  asm volatile(
      "{\n.reg .pred p;\n.reg .b64 phase;\n"
      "mbarrier.arrive.shared::cta.b64 phase, [%0];\nAGAIN:\n"
      "mbarrier.test_wait.shared::cta.b64 p, [%0], phase;\n"
      "@p bra OVER;\nbra AGAIN;\nOVER:\n}\n" ::"r"(barrier)
      : "memory");
}
// Contiguous bytes, a multiple of 16, which then count for the barrier.
__device__ inline void CopyBulk(uint32_t shared, const void* global, uint32_t bytes,
                                uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, "
      "[%3];\n" ::"r"(shared),
      "l"(global), "r"(bytes), "r"(barrier)
      : "memory");
}
// The same; once: ReadOnce().
__device__ inline void CopyBulkOnce(uint32_t shared, const void* global, uint32_t bytes,
                                    uint32_t barrier, uint64_t once) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes"
      ".L2::cache_hint [%0], [%1], %2, [%3], %4;\n" ::"r"(shared),
      "l"(global), "r"(bytes), "r"(barrier), "l"(once)
      : "memory");
}
// What this thread's ordinary loads and stores did to shared memory comes before what
// copies and tensor cores do there after a barrier.
__device__ inline void PublishToAsync() {
  asm volatile("fence.proxy.async.shared::cta;\n" ::: "memory");
}

}  // namespace quire::kernels::cuda

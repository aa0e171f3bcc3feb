#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <type_traits>

#include "core/kernels/cuda/device_attribute.h"

// Blocks of a cluster (CUDA programming guide, "Thread Block Clusters"; sm_90) read each
// other's shared memory. On older devices a cluster is one block.
namespace quire::kernels::cuda {

// All threads of all blocks of the cluster come here before any goes on, and what they
// wrote to shared memory can be read by all.
__device__ inline void ClusterBarrier() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.arrive.release.aligned;\n" ::: "memory");
  asm volatile("barrier.cluster.wait.acquire.aligned;\n" ::: "memory");
#else
  __syncthreads();
#endif
}

// What stands at the place of `own`, in shared memory, in the cluster's block `rank`.
template <typename T>
__device__ const T& OfBlock(const T& own, int rank) {
#if __CUDA_ARCH__ >= 900
  uint64_t address;
  asm("mapa.u64 %0, %1, %2;\n"
      : "=l"(address)
      : "l"(reinterpret_cast<uint64_t>(&own)), "r"(rank));
  return *reinterpret_cast<const T*>(address);
#else
  static_cast<void>(rank);
  return own;
#endif
}

// The largest power of two of blocks, up to 8, that a launch of `clusters` clusters can
// have at the same time, a block a multiprocessor; 1 if there are none.
inline int BlocksOfCluster(int64_t clusters) {
  int major = 0, multiprocessors = 0;
  if (DeviceAttribute(cudaDevAttrComputeCapabilityMajor, major) != cudaSuccess ||
      DeviceAttribute(cudaDevAttrMultiProcessorCount, multiprocessors) != cudaSuccess ||
      major != 9) {  // newer ones run the code of older ones
    return 1;
  }
  int blocks = 8;
  while (blocks > 1 && clusters * blocks > multiprocessors) blocks /= 2;
  return blocks;
}

// Launches clusters of so many blocks; 1: plain blocks.
template <typename... Params>
cudaError_t LaunchClusters(void (*kernel)(Params...), int64_t clusters, int blocks,
                           int threads, cudaStream_t stream,
                           const std::type_identity_t<Params>&... args) {
  cudaLaunchAttribute attribute = {};
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim = {static_cast<unsigned>(blocks), 1, 1};
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(clusters * blocks));
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = blocks > 1 ? 1 : 0;
  return cudaLaunchKernelEx(&config, kernel, args...);
}

}  // namespace quire::kernels::cuda

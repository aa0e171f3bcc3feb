#pragma once

#include <cuda_runtime.h>

#include <type_traits>

#include "core/kernels/cuda/device_attribute.h"

// Programmatic dependent launch (CUDA programming guide, section of that name; sm_90): a
// kernel's blocks begin while the last ones of the kernel before it still run. On older
// devices launches follow each other as ever.
namespace quire::kernels::cuda {

// From here on the next kernel's blocks may begin, where there is room for them.
__device__ inline void LetTheNextBegin() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;\n" ::: "memory");
#endif
}
// Until the kernel before is over, and what it wrote can be read.
__device__ inline void WaitForTheOneBefore() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;\n" ::: "memory");
#endif
}

// Launches `kernel` so that it may begin before the one before is over. It must wait for
// that before it ends, or else the one after it could overtake; so must one that lets the
// next begin, unless that one waits before it reads anything.
template <typename... Params>
cudaError_t LaunchDependent(void (*kernel)(Params...), dim3 blocks, int threads,
                            size_t shared_bytes, cudaStream_t stream,
                            const std::type_identity_t<Params>&... args) {
  int major = 0;
  const cudaError_t error = DeviceAttribute(cudaDevAttrComputeCapabilityMajor, major);
  if (error != cudaSuccess) return error;
  cudaLaunchAttribute attribute = {};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = blocks;
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = major >= 9 ? 1 : 0;
  return cudaLaunchKernelEx(&config, kernel, args...);
}

}  // namespace quire::kernels::cuda

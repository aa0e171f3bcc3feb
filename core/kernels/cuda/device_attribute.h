#pragma once

#include <cuda_runtime.h>

namespace quire::kernels::cuda {

// Of the current device.
inline cudaError_t DeviceAttribute(cudaDeviceAttr which, int& value) {
  int device = 0;
  const cudaError_t error = cudaGetDevice(&device);
  return error != cudaSuccess ? error : cudaDeviceGetAttribute(&value, which, device);
}

}  // namespace quire::kernels::cuda

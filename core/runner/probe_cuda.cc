#include "core/runner/probe_cuda.h"

#include <cuda_runtime_api.h>

namespace quire {

CudaProbe ProbeCuda() {
  CudaProbe probe{.built = true, .needs_version = CUDART_VERSION / 1000 * 1000};
  // Within a major version any driver runs what any compiler of it made. Without a driver
  // this is no error, and 0.
  cudaDriverGetVersion(&probe.driver_version);
  if (probe.driver_version < probe.needs_version) return probe;
  int count = 0;
  if (const cudaError_t error = cudaGetDeviceCount(&count); error != cudaSuccess) {
    probe.error = cudaGetErrorString(error);
    return probe;
  }
  for (int i = 0; i < count; ++i) {
    cudaDeviceProp properties;
    if (const cudaError_t error = cudaGetDeviceProperties(&properties, i);
        error != cudaSuccess) {
      probe.error = cudaGetErrorString(error);
      return probe;
    }
    probe.devices.push_back({properties.name, properties.major, properties.minor});
  }
  return probe;
}

}  // namespace quire

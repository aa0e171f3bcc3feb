#include "core/model/cuda_timer.h"

#include "core/model/cuda_check.h"

namespace quire {

CudaTimer::~CudaTimer() {
  for (const Stretch& s : stretches_) {
    cudaEventDestroy(s.begin);
    cudaEventDestroy(s.end);
  }
}

void CudaTimer::Start(size_t number, cudaStream_t stream) {
  if (used_ == stretches_.size()) {
    Stretch fresh;
    ThrowIfError(cudaEventCreate(&fresh.begin));
    if (const cudaError_t error = cudaEventCreate(&fresh.end); error != cudaSuccess) {
      cudaEventDestroy(fresh.begin);
      ThrowIfError(error);
    }
    stretches_.push_back(fresh);
  }
  stretches_[used_].number = number;
  ThrowIfError(cudaEventRecord(stretches_[used_].begin, stream));
}

void CudaTimer::Stop(cudaStream_t stream) {
  ThrowIfError(cudaEventRecord(stretches_[used_].end, stream));
  ++used_;
}

double CudaTimer::Seconds(size_t number) const {
  double seconds = 0;
  for (size_t i = 0; i < used_; ++i) {
    if (stretches_[i].number != number) continue;
    float milliseconds = 0;
    ThrowIfError(
        cudaEventElapsedTime(&milliseconds, stretches_[i].begin, stretches_[i].end));
    seconds += static_cast<double>(milliseconds) / 1000;
  }
  return seconds;
}

}  // namespace quire

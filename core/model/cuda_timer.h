#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <vector>

namespace quire {

// Adds up how long stretches of a stream's work take, by number (a sequence of a step),
// without waiting for them: two events a stretch. Events are kept for the next step. Not
// thread-safe; errors of CUDA are thrown.
class CudaTimer {
 public:
  CudaTimer() = default;
  ~CudaTimer();
  CudaTimer(const CudaTimer&) = delete;
  CudaTimer& operator=(const CudaTimer&) = delete;

  // Forgets all stretches.
  void Clear() { used_ = 0; }
  // A stretch begins, which ends with the next Stop.
  void Start(size_t number, cudaStream_t stream);
  void Stop(cudaStream_t stream);
  // Of all stretches of this number; the stream has finished them.
  double Seconds(size_t number) const;

 private:
  struct Stretch {
    size_t number = 0;
    cudaEvent_t begin = nullptr, end = nullptr;
  };
  std::vector<Stretch> stretches_;
  size_t used_ = 0;  // of stretches_
};

}  // namespace quire

#pragma once

#include <cuda_runtime_api.h>

#include <functional>

#include "ATen/core/Tensor.h"

namespace quire::cuda_attention {

// Times device work with events on the current stream. Launches of a measurement follow
// one another: work that the device is given first keeps it busy until the host is ahead,
// so that the host's own time for a launch is in no number. One thread.
class Timer {
 public:
  // `seconds` of device time for each measurement, roughly.
  explicit Timer(double seconds);

  // launch(i) enqueues the i-th repetition, i = 0, 1, ...: it may go round several
  // inputs. The median of at most 50 repetitions, at least 5, after some for warming up.
  // Short ones are timed in groups.
  double MedianMicroseconds(const std::function<void(int)>& launch);

  // Of device-to-device copies of 1 GiB: bytes read and written, in TB/s.
  double CopyTerabytesPerSecond();

 private:
  struct Estimate {
    double device_us, host_us;  // of a launch
  };
  Estimate WarmUp(const std::function<void(int)>& launch);
  void KeepBusy(double microseconds);

  double seconds_;
  cudaStream_t stream_;
  at::Tensor from_, to_;
  double copy_us_ = 0;  // of a copy, once measured
};

}  // namespace quire::cuda_attention

#include "tests/benchmarks/cuda_attention/timer.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <vector>

#include "ATen/ops/empty_like.h"
#include "ATen/ops/randint.h"
#include "c10/cuda/CUDAException.h"
#include "c10/cuda/CUDAStream.h"
#include "tests/support/quantile.h"

namespace quire::cuda_attention {
namespace {

constexpr int64_t kCopyBytes = int64_t{1} << 30;
constexpr int kMinRepeats = 5, kMaxRepeats = 50;
constexpr double kGroupMicroseconds =
    100;  // event records between cost a microsecond or two
constexpr int kMaxGroup = 20;

double HostMicroseconds() {
  return std::chrono::duration<double, std::micro>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

// A list of events; the times between them.
class Events {
 public:
  explicit Events(size_t count) : events_(count) {
    for (cudaEvent_t& event : events_) C10_CUDA_CHECK(cudaEventCreate(&event));
  }
  ~Events() {
    for (const cudaEvent_t event : events_) cudaEventDestroy(event);
  }
  Events(const Events&) = delete;
  Events& operator=(const Events&) = delete;

  void Record(size_t i, cudaStream_t stream) {
    C10_CUDA_CHECK(cudaEventRecord(events_[i], stream));
  }
  // From each to the next, in microseconds, when all have come.
  std::vector<double> Differences() {
    C10_CUDA_CHECK(cudaEventSynchronize(events_.back()));
    std::vector<double> differences;
    for (size_t i = 1; i < events_.size(); ++i) {
      float milliseconds = 0;
      C10_CUDA_CHECK(cudaEventElapsedTime(&milliseconds, events_[i - 1], events_[i]));
      differences.push_back(1e3 * milliseconds);
    }
    return differences;
  }

 private:
  std::vector<cudaEvent_t> events_;
};

}  // namespace

Timer::Timer(double seconds)
    : seconds_(seconds), stream_(c10::cuda::getCurrentCUDAStream().stream()) {
  const auto options = at::TensorOptions().dtype(at::kInt).device(at::kCUDA);
  from_ = at::randint(0, 1 << 30, {kCopyBytes / 4}, options);
  to_ = at::empty_like(from_);
  copy_us_ = 2 * kCopyBytes / CopyTerabytesPerSecond() * 1e-6;
}

double Timer::CopyTerabytesPerSecond() {
  constexpr int kCopies = 20;
  KeepBusy(0);  // one copy to warm up
  Events events(kCopies + 1);
  events.Record(0, stream_);
  for (int i = 1; i <= kCopies; ++i) {
    to_.copy_(from_, /*non_blocking=*/true);
    events.Record(i, stream_);
  }
  return 2 * kCopyBytes / Quantile(events.Differences(), .5) * 1e-6;
}

double Timer::MedianMicroseconds(const std::function<void(int)>& launch) {
  const Estimate estimate = WarmUp(launch);
  const int group = static_cast<int>(std::clamp(
      std::ceil(kGroupMicroseconds / estimate.device_us), 1.0, double{kMaxGroup}));
  const int repeats =
      static_cast<int>(std::clamp(1e6 * seconds_ / (group * estimate.device_us),
                                  double{kMinRepeats}, double{kMaxRepeats}));
  KeepBusy(1.5 * estimate.host_us * group * repeats);
  Events events(repeats + 1);
  events.Record(0, stream_);
  for (int i = 0; i < repeats; ++i) {
    for (int j = 0; j < group; ++j) launch(i * group + j);
    events.Record(i + 1, stream_);
  }
  return Quantile(events.Differences(), .5) / group;
}

Timer::Estimate Timer::WarmUp(const std::function<void(int)>& launch) {
  constexpr int kRuns = 3;
  launch(0);  // loads, plans and allocates
  launch(1);
  C10_CUDA_CHECK(cudaStreamSynchronize(stream_));
  Events events(2);
  const double start = HostMicroseconds();
  events.Record(0, stream_);
  for (int i = 0; i < kRuns; ++i) launch(i);
  events.Record(1, stream_);
  const double host = HostMicroseconds() - start;
  return {events.Differences()[0] / kRuns, host / kRuns};
}

void Timer::KeepBusy(double microseconds) {
  const int copies = copy_us_ > 0 ? static_cast<int>(microseconds / copy_us_) : 0;
  for (int i = 0; i <= copies; ++i) to_.copy_(from_, /*non_blocking=*/true);
}

}  // namespace quire::cuda_attention

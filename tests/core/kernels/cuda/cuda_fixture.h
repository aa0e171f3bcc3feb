#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "core/kernels/cuda/cuda_kernels.h"
#include "tests/core/kernels/cuda/device_buffer.h"

namespace quire::testing {

using kernels::cuda::Bf16;

inline constexpr double kInfinity = std::numeric_limits<double>::infinity();
inline constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// Rounding to the nearest bfloat16 is off by at most 2^-9 of the value; twice that also
// covers a float32 result that lies on the other side of a rounding border.
inline constexpr double kBf16Rounding = 1.0 / 256;

inline uint16_t Bits(Bf16 x) { return static_cast<__nv_bfloat16_raw>(x).x; }
inline constexpr uint16_t kPoisonBits = 0xFFFF;
inline Bf16 PoisonValue() { return __nv_bfloat16_raw{kPoisonBits}; }

// Why no kernel can run here, or nothing.
inline std::string NoDeviceReason() {
  int count = 0;
  if (const cudaError_t error = cudaGetDeviceCount(&count); error != cudaSuccess) {
    return cudaGetErrorString(error);
  }
  if (count == 0) return "no CUDA device";
  int major = 0, minor = 0;
  cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0);
  cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, 0);
  if (major == 8 || (major == 9 && minor == 0)) return "";
  return "the device is sm_" + std::to_string(10 * major + minor) +
         "; the kernels are built for sm_80 and sm_90a";
}

// Normal values of one seed; each call goes on where the last one ended.
class Draw {
 public:
  explicit Draw(uint32_t seed) : random_(seed) {}

  float Normal(float deviation = 1) {
    return std::normal_distribution<float>(0, deviation)(random_);
  }
  int32_t Below(int32_t end) {
    return std::uniform_int_distribution<int32_t>(0, end - 1)(random_);
  }
  std::vector<float> Floats(size_t size, float deviation = 1) {
    std::vector<float> values(size);
    for (float& x : values) x = Normal(deviation);
    return values;
  }
  std::vector<Bf16> Bf16s(size_t size, float deviation = 1) {
    std::vector<Bf16> values(size);
    for (Bf16& x : values) x = __float2bfloat16(Normal(deviation));
    return values;
  }
  // 0 .. size - 1 in random order.
  std::vector<int32_t> Permutation(int32_t size) {
    std::vector<int32_t> values(size);
    for (int32_t i = 0; i < size; ++i) values[i] = i;
    std::shuffle(values.begin(), values.end(), random_);
    return values;
  }

 private:
  std::mt19937 random_;
};

inline std::vector<double> ToDoubles(const std::vector<Bf16>& values) {
  std::vector<double> doubles;
  doubles.reserve(values.size());
  for (const Bf16 x : values) doubles.push_back(__bfloat162float(x));
  return doubles;
}
inline std::vector<double> ToDoubles(const std::vector<float>& values) {
  return {values.begin(), values.end()};
}

// Every |actual - expected| <= relative * |expected| + absolute; NaN never passes.
inline void ExpectClose(const std::vector<double>& actual,
                        const std::vector<double>& expected, double relative,
                        double absolute) {
  ASSERT_EQ(actual.size(), expected.size());
  size_t wrong = 0, first = 0;
  for (size_t i = 0; i < actual.size(); ++i) {
    const double limit = relative * std::abs(expected[i]) + absolute;
    if (std::abs(actual[i] - expected[i]) <= limit) continue;
    if (wrong++ == 0) first = i;
  }
  EXPECT_EQ(wrong, 0u) << "of " << actual.size() << " values; the first is " << first
                       << ": " << actual[first] << " for " << expected[first];
}

// ||actual - expected|| / ||expected||; NaN becomes infinity.
inline double RelativeL2(const std::vector<double>& actual,
                         const std::vector<double>& expected) {
  if (actual.size() != expected.size()) return kInfinity;
  double error = 0, size = 0;
  for (size_t i = 0; i < actual.size(); ++i) {
    error += (actual[i] - expected[i]) * (actual[i] - expected[i]);
    size += expected[i] * expected[i];
  }
  return std::isfinite(error) ? std::sqrt(error / size) : kInfinity;
}

inline double AsDouble(Bf16 x) { return __bfloat162float(x); }
inline double AsDouble(double x) { return x; }

template <typename T>
void ExpectSameBits(const std::vector<T>& actual, const std::vector<T>& expected) {
  ASSERT_EQ(actual.size(), expected.size());
  for (size_t i = 0; i < actual.size(); ++i) {
    ASSERT_EQ(std::memcmp(&actual[i], &expected[i], sizeof(T)), 0)
        << "value " << i << " of " << actual.size() << ": " << AsDouble(actual[i])
        << " for " << AsDouble(expected[i]);
  }
}

// Skips without a device. Kernels get a stream of their own that waits for no other, so
// that one that launches elsewhere is found out.
class CudaTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const std::string reason = NoDeviceReason();
    if (!reason.empty()) GTEST_SKIP() << reason;
    QUIRE_CUDA_OK(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
  }
  void TearDown() override {
    if (stream_ != nullptr) QUIRE_CUDA_OK(cudaStreamDestroy(stream_));
  }

  // The launch was accepted and the kernel came to its end.
  void Finish(cudaError_t launched) {
    QUIRE_CUDA_OK(launched);
    QUIRE_CUDA_OK(cudaStreamSynchronize(stream_));
    QUIRE_CUDA_OK(cudaDeviceSynchronize());
  }

  cudaStream_t stream_ = nullptr;
};

}  // namespace quire::testing

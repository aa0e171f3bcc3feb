#pragma once

#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <type_traits>
#include <vector>

// A call that must succeed for the rest of the test to mean anything.
#define QUIRE_CUDA_OK(call)                                                 \
  do {                                                                      \
    const cudaError_t quire_error = (call);                                 \
    ASSERT_EQ(quire_error, cudaSuccess) << cudaGetErrorString(quire_error); \
  } while (false)

namespace quire::testing {

// `size` values on the device, between two guards; whoever writes into a guard fails the
// test when the buffer goes away. New memory is poisoned: 0xFF bytes, a NaN of every
// floating-point type and -1 of the integers. Not movable: kernels hold its address.
template <typename T>
class DeviceBuffer {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
  explicit DeviceBuffer(size_t size) : size_(size) {
    Expect(cudaMalloc(reinterpret_cast<void**>(&memory_), Bytes() + 2 * kGuard));
    Expect(cudaMemset(memory_, kGuardByte, Bytes() + 2 * kGuard));
    Poison();
  }
  explicit DeviceBuffer(const std::vector<T>& values) : DeviceBuffer(values.size()) {
    Upload(values);
  }
  ~DeviceBuffer() {
    ExpectGuard("before", 0);
    ExpectGuard("after", kGuard + Bytes());
    Expect(cudaFree(memory_));
  }
  DeviceBuffer(const DeviceBuffer&) = delete;
  DeviceBuffer& operator=(const DeviceBuffer&) = delete;

  T* get() const { return reinterpret_cast<T*>(memory_ + kGuard); }
  size_t size() const { return size_; }

  void Poison() { Fill(0xFF); }
  void Zero() { Fill(0); }
  void Upload(const std::vector<T>& values) {
    ASSERT_EQ(values.size(), size_);
    Expect(cudaMemcpy(get(), values.data(), Bytes(), cudaMemcpyHostToDevice));
    Expect(cudaDeviceSynchronize());  // the tests' stream waits for no other
  }
  std::vector<T> Download() const {
    std::vector<T> values(size_);
    Expect(cudaMemcpy(values.data(), get(), Bytes(), cudaMemcpyDeviceToHost));
    return values;
  }

 private:
  static constexpr size_t kGuard = 256;  // keeps cudaMalloc's alignment
  static constexpr uint8_t kGuardByte = 0xA5;

  static void Expect(cudaError_t error) {
    EXPECT_EQ(error, cudaSuccess) << cudaGetErrorString(error);
  }
  size_t Bytes() const { return size_ * sizeof(T); }
  void Fill(int byte) {
    Expect(cudaMemset(get(), byte, Bytes()));
    Expect(cudaDeviceSynchronize());
  }
  void ExpectGuard(const char* where, size_t offset) const {
    std::vector<uint8_t> guard(kGuard);
    Expect(cudaMemcpy(guard.data(), memory_ + offset, kGuard, cudaMemcpyDeviceToHost));
    const auto broken = std::find_if(guard.begin(), guard.end(),
                                     [](uint8_t byte) { return byte != kGuardByte; });
    EXPECT_EQ(broken, guard.end())
        << "a kernel wrote " << where << " a buffer of " << size_ << " values, at byte "
        << broken - guard.begin();
  }

  size_t size_;
  uint8_t* memory_ = nullptr;
};

}  // namespace quire::testing

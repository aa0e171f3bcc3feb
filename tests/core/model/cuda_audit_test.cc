#include "core/model/cuda_audit.h"

#include <gtest/gtest.h>

#include <cmath>

#include "ATen/TensorOperators.h"
#include "ATen/ops/tensor.h"
#include "ATen/ops/zeros.h"
#include "core/model/cuda_check.h"
#include "core/model/cuda_timer.h"
#include "core/runner/probe_cuda.h"
#include "tests/core/kernels/random_tensor.h"

namespace quire {
namespace {

using testing::RandomTensor;

TEST(CudaAuditTest, ErrorsAreThoseOfTheRowsAskedFor) {
  const at::Tensor dense = RandomTensor({5, 4, 16}, at::kBFloat16, 1);
  const at::Tensor out = dense.clone();
  out[1].add_(1);    // not asked for
  out[4].mul_(1.5);  // exactly half of it away, but for rounding
  dense[3].zero_();
  at::Tensor errors = at::zeros({4}, at::kFloat);
  const at::Tensor rows = at::tensor({4, 0, 2, 3}, at::kInt);
  AddAuditErrors(out, dense, rows, errors);
  AddAuditErrors(out, dense, rows, errors);
  EXPECT_NEAR(errors[0].item<double>(), 1, .01);
  for (int i = 1; i < 4; ++i) EXPECT_EQ(errors[i].item<double>(), 0) << i;
  // What is not a number is no small error.
  out[2].fill_(NAN);
  AddAuditErrors(out, dense, rows, errors);
  EXPECT_TRUE(std::isnan(errors[2].item<double>()));
}

TEST(CudaTimerTest, AddsUpStretchesByNumber) {
  const auto chosen = ChooseDevice({.kind = DeviceKind::kCuda}, ProbeCuda());
  if (!chosen.ok()) GTEST_SKIP() << chosen.status().message();
  void* memory = nullptr;
  constexpr size_t kBytes = size_t{256} << 20;
  ThrowIfError(cudaMalloc(&memory, kBytes));
  CudaTimer timer;
  for (int round = 0; round < 3; ++round) {
    timer.Clear();
    for (const size_t number : {3, 1, 3}) {
      timer.Start(number, nullptr);
      for (size_t i = 0; i < 4 * number; ++i) cudaMemsetAsync(memory, 0, kBytes, nullptr);
      timer.Stop(nullptr);
    }
    ThrowIfError(cudaStreamSynchronize(nullptr));
    EXPECT_EQ(timer.Seconds(0), 0);
    EXPECT_GT(timer.Seconds(1), 0);
    EXPECT_GT(timer.Seconds(3), 2 * timer.Seconds(1));
  }
  ThrowIfError(cudaFree(memory));
}

}  // namespace
}  // namespace quire

#include "core/model/cuda_graphs.h"

#include <gtest/gtest.h>

#include "ATen/TensorOperators.h"
#include "ATen/ops/full.h"
#include "ATen/ops/mm.h"
#include "ATen/ops/ones.h"
#include "ATen/ops/zeros.h"
#include "c10/core/InferenceMode.h"
#include "c10/util/Exception.h"
#include "core/runner/device.h"
#include "core/runner/probe_cuda.h"

namespace quire {
namespace {

class CudaGraphsTest : public testing::Test {
 protected:
  void SetUp() override {
    const auto chosen = ChooseDevice({.kind = DeviceKind::kCuda}, ProbeCuda());
    if (!chosen.ok()) GTEST_SKIP() << chosen.status().message();
    x_ = at::full({8, 8}, 2.0, options_);
  }

  // x times itself, and how often it was launched rather than replayed.
  double Run(const CudaGraphs::Key& key) {
    const CudaGraphs::Outputs outputs = graphs_.Run(key, [this] {
      ++launched_;
      return CudaGraphs::Outputs{at::mm(x_, x_)};
    });
    return outputs[0].sum().item().toDouble();
  }

  const c10::InferenceMode inference_;
  const at::TensorOptions options_ = at::TensorOptions(at::kBFloat16).device(at::kCUDA);
  CudaGraphs graphs_;
  at::Tensor x_;
  int launched_ = 0;
};

TEST_F(CudaGraphsTest, TheFirstIsLaunchedTheSecondCapturedTheOthersReplayed) {
  EXPECT_EQ(Run({1, true, false}), 64 * 32);
  EXPECT_EQ(graphs_.captured(), 0u);
  EXPECT_EQ(Run({1, true, false}), 64 * 32);
  EXPECT_EQ(graphs_.captured(), 1u);
  x_.fill_(3.0);  // at the same address
  EXPECT_EQ(Run({1, true, false}), 64 * 72);
  EXPECT_EQ(launched_, 2);
}

TEST_F(CudaGraphsTest, KeysHaveGraphsOfTheirOwn) {
  for (int i = 0; i < 3; ++i) {
    Run({1, true, false});
    Run({1, false, true});
    Run({2, true, false});
  }
  EXPECT_EQ(graphs_.captured(), 3u);
  EXPECT_EQ(launched_, 6);
}

TEST_F(CudaGraphsTest, TheLeastRecentlyUsedGoes) {
  const auto count = static_cast<int64_t>(CudaGraphs::kMaxGraphs);
  for (int64_t i = 0; i < count; ++i) {
    Run({i, true, true});
    Run({i, true, true});
  }
  Run({0, true, true});
  EXPECT_EQ(launched_, 2 * count);
  Run({count, true, true});  // number 1 goes
  Run({0, true, true});
  EXPECT_EQ(launched_, 2 * count + 1);
  Run({1, true, true});
  EXPECT_EQ(launched_, 2 * count + 2);
  EXPECT_LE(graphs_.captured(), CudaGraphs::kMaxGraphs);
}

TEST_F(CudaGraphsTest, AfterClearEverythingIsCapturedAnew) {
  for (int i = 0; i < 2; ++i) {
    Run({1, true, false});
    Run({1, true, false});
    EXPECT_EQ(graphs_.captured(), 1u);
    graphs_.Clear();
    EXPECT_EQ(graphs_.captured(), 0u);
    x_ = at::ones({8, 8}, options_);  // at another address
  }
  EXPECT_EQ(Run({1, true, false}), 64 * 8);
}

TEST_F(CudaGraphsTest, ACaptureThatFailsLeavesTheStepAndTheDeviceAsTheyWere) {
  for (const bool waits : {false, true}) {
    int calls = 0;
    const auto launch = [&] {
      at::Tensor y = at::mm(x_, x_);
      if (++calls == 2) {
        // A capture ends in an error if the device is waited for.
        if (waits) y.sum().item();
        TORCH_CHECK_WITH(OutOfMemoryError, false, "no memory");
      }
      return CudaGraphs::Outputs{y};
    };
    for (int i = 0; i < 5; ++i) {
      const auto outputs = graphs_.Run({waits ? 2 : 1, false, false}, launch);
      EXPECT_EQ(outputs[0].sum().item().toDouble(), 64 * 32) << i;
    }
    EXPECT_EQ(calls, 6);
    EXPECT_EQ(graphs_.captured(), waits ? 1u : 0u);
    // Others are captured as ever.
    Run({3, true, false});
    EXPECT_EQ(Run({3, true, false}), 64 * 32);
    EXPECT_EQ(graphs_.captured(), 1u);
  }
}

TEST_F(CudaGraphsTest, WhatLaunchingThrowsIsThrown) {
  const auto launch = []() -> CudaGraphs::Outputs {
    TORCH_CHECK_WITH(OutOfMemoryError, false, "no memory");
  };
  for (int i = 0; i < 3; ++i) {
    EXPECT_THROW(graphs_.Run({1, true, true}, launch), c10::OutOfMemoryError);
  }
  EXPECT_EQ(Run({1, true, true}), 64 * 32);
}

}  // namespace
}  // namespace quire

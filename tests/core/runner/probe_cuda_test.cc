#include "core/runner/probe_cuda.h"

#include <gtest/gtest.h>

namespace quire {
namespace {

#ifdef QUIRE_CUDA
constexpr bool kBuilt = true;
#else
constexpr bool kBuilt = false;
#endif

// Holds on any machine: with CUDA and without, with a driver and without.
TEST(ProbeCudaTest, WhatIsFoundAgreesWithItself) {
  const CudaProbe probe = ProbeCuda();
  EXPECT_EQ(probe.built, kBuilt);
  EXPECT_EQ(probe.needs_version > 0, kBuilt);
  EXPECT_TRUE(probe.driver_version >= probe.needs_version || probe.devices.empty());
  const auto first = ChooseDevice({}, probe);
  ASSERT_TRUE(first.ok()) << first.status();
  EXPECT_NE(first->note, "");
  if (first->device.kind == DeviceKind::kCpu) GTEST_SKIP() << "no GPU: " << first->note;
  EXPECT_GE(probe.devices.at(first->device.index).major, 8);
  EXPECT_EQ(ChooseDevice({DeviceKind::kCuda, first->device.index}, probe)->device,
            first->device);
}

}  // namespace
}  // namespace quire

#include "core/runner/device.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace quire {
namespace {

using absl::StatusCode;

const CudaDevice kH100 = {"H100", 9, 0};
const CudaDevice kA100 = {"A100", 8, 0};
const CudaDevice kV100 = {"V100", 7, 0};

// A program for CUDA 13.0 beside a driver for 13.2.
CudaProbe Machine(std::vector<CudaDevice> devices) {
  return {.built = true,
          .needs_version = 13000,
          .driver_version = 13020,
          .error = "",
          .devices = std::move(devices)};
}

CudaProbe WithDriver(int32_t version) {
  CudaProbe probe = Machine({});
  probe.driver_version = version;
  return probe;
}

CudaProbe WithError(const std::string& error) {
  CudaProbe probe = Machine({});
  probe.error = error;
  return probe;
}

TEST(ParseDeviceTest, WhatCanBeAskedFor) {
  EXPECT_FALSE(ParseDevice("auto")->kind.has_value());
  EXPECT_EQ(ParseDevice("cpu")->kind, DeviceKind::kCpu);
  EXPECT_EQ(ParseDevice("cuda")->kind, DeviceKind::kCuda);
  EXPECT_FALSE(ParseDevice("cuda")->index.has_value());
  EXPECT_EQ(ParseDevice("cuda:0")->kind, DeviceKind::kCuda);
  EXPECT_EQ(ParseDevice("cuda:0")->index, 0);
  EXPECT_EQ(ParseDevice("cuda:63")->index, 63);
}

TEST(ParseDeviceTest, AnythingElseIsRefused) {
  for (const char* text :
       {"", "gpu", "CPU", "cuda:", "cuda:64", "cuda:-1", "cuda:+1", "cuda: 1", "cuda:01",
        "cuda:1 ", "cuda:99999999999", "cuda:0,1", "cpu:0", "auto "}) {
    EXPECT_EQ(ParseDevice(text).status(),
              absl::InvalidArgumentError(
                  "device is '" + std::string(text) +
                  "'; it must be auto, cpu, cuda or cuda:N with N in [0, 63]"));
  }
}

struct ChoiceCase {
  const char* request;
  CudaProbe probe;
  const char* device;
  const char* note;
};

TEST(ChooseDeviceTest, WhatIsChosen) {
  const std::vector<ChoiceCase> cases = {
      {"cpu", Machine({kH100}), "cpu", ""},
      {"cpu", {}, "cpu", ""},
      {"auto", Machine({kH100}), "cuda:0", "H100"},
      {"auto", Machine({kV100, kA100, kH100}), "cuda:1", "A100"},
      {"cuda", Machine({kV100, kA100, kH100}), "cuda:1", "A100"},
      {"cuda:2", Machine({kV100, kA100, kH100}), "cuda:2", "H100"},
      {"auto",
       {},
       "cpu",
       "this program was built without CUDA; build the preset cuda-release"},
      {"auto", WithDriver(0), "cpu",
       "there is no NVIDIA driver; one for CUDA 13.0 or newer is needed"},
      {"auto", Machine({}), "cpu", "CUDA finds no GPU"},
      {"auto", Machine({kV100}), "cpu",
       "V100 has compute capability 7.0; 8.0 or newer is needed"},
  };
  for (const ChoiceCase& c : cases) {
    const auto chosen = ChooseDevice(*ParseDevice(c.request), c.probe);
    ASSERT_TRUE(chosen.ok()) << c.request << ": " << chosen.status();
    EXPECT_EQ(DeviceName(chosen->device), c.device) << c.request;
    EXPECT_EQ(chosen->note, c.note) << c.request;
  }
}

struct RefusalCase {
  const char* request;
  CudaProbe probe;
  StatusCode code;
  const char* message;
};

TEST(ChooseDeviceTest, WhatIsRefused) {
  const StatusCode missing = StatusCode::kFailedPrecondition;
  const std::vector<RefusalCase> cases = {
      {"cuda",
       {},
       missing,
       "device is cuda; this program was built without CUDA; build the preset "
       "cuda-release"},
      {"cuda:1",
       {},
       missing,
       "device is cuda:1; this program was built without CUDA; build the preset "
       "cuda-release"},
      {"cuda", WithDriver(0), missing,
       "device is cuda; there is no NVIDIA driver; one for CUDA 13.0 or newer is needed"},
      {"cuda", WithDriver(12080), missing,
       "device is cuda; the NVIDIA driver is for CUDA 12.8; one for CUDA 13.0 or newer "
       "is "
       "needed"},
      {"cuda:0", Machine({}), missing, "device is cuda:0; CUDA finds no GPU"},
      {"cuda", WithError("no CUDA-capable device is detected"), missing,
       "device is cuda; CUDA finds no GPU: no CUDA-capable device is detected"},
      {"cuda", Machine({kV100, {"T4", 7, 5}}), missing,
       "device is cuda; V100 has compute capability 7.0; 8.0 or newer is needed"},
      {"cuda:1", Machine({kH100, {"T4", 7, 5}}), missing,
       "device is cuda:1; T4 has compute capability 7.5; 8.0 or newer is needed"},
      {"cuda:2", Machine({kH100, kH100}), StatusCode::kInvalidArgument,
       "device is cuda:2; CUDA finds 2 GPUs here, so it must be in [cuda:0, cuda:1]"},
  };
  for (const RefusalCase& c : cases) {
    EXPECT_EQ(ChooseDevice(*ParseDevice(c.request), c.probe).status(),
              absl::Status(c.code, c.message));
  }
}

TEST(ChooseDeviceTest, ADriverForTheSameVersionIsEnough) {
  CudaProbe probe = Machine({kH100});
  probe.driver_version = probe.needs_version;
  EXPECT_EQ(ChooseDevice({}, probe)->device, (Device{DeviceKind::kCuda, 0}));
}

}  // namespace
}  // namespace quire

#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

// Which device computes: what was asked for and what is there, decided without touching a
// device. Plain values and pure functions.
namespace quire {

enum class DeviceKind : uint8_t { kCpu, kCuda };

struct Device {
  DeviceKind kind = DeviceKind::kCpu;
  int32_t index = 0;  // of kCuda, as the CUDA runtime counts

  bool operator==(const Device& other) const {
    return kind == other.kind && index == other.index;
  }
};

// "cpu", "cuda:0"
std::string DeviceName(const Device& device);

// What the option `device` may say.
struct DeviceRequest {
  std::optional<DeviceKind> kind;  // none: a GPU if one can be used, else the CPU
  std::optional<int32_t> index;    // none: the first that can be used
};

// "auto", "cpu", "cuda" or "cuda:N", N in [0, 63]. kInvalidArgument: anything else.
absl::StatusOr<DeviceRequest> ParseDevice(std::string_view text);

struct CudaDevice {
  std::string name;
  int32_t major = 0;  // compute capability
  int32_t minor = 0;
};

// What was found out about CUDA. Versions as CUDA writes them: 13020 is 13.2.
struct CudaProbe {
  bool built = false;               // whether this program has CUDA at all
  int32_t needs_version = 0;        // of the driver, for this program
  int32_t driver_version = 0;       // highest CUDA version it supports; 0: no driver
  std::string error;                // the CUDA runtime's, on counting devices; "": none
  std::vector<CudaDevice> devices;  // by index
};

struct ChosenDevice {
  Device device;
  std::string
      note;  // why `auto` chose the CPU, else the GPU's name; "": the CPU was asked for
};

// kFailedPrecondition: a GPU was asked for, and this program has no CUDA, or there is no
// driver, or it is too old, or there is no GPU, or it is too old; says what is needed.
// kInvalidArgument: the index is out of range.
absl::StatusOr<ChosenDevice> ChooseDevice(const DeviceRequest& request,
                                          const CudaProbe& probe);

}  // namespace quire

#include "core/runner/device.h"

#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "core/base/to_absl.h"

namespace quire {
namespace {

constexpr int32_t kMaxIndex = 63;
// bfloat16 and asynchronous copies to shared memory begin with Ampere.
constexpr int32_t kLeastMajor = 8;

bool Usable(const CudaDevice& device) { return device.major >= kLeastMajor; }

std::string TooOld(const CudaDevice& device) {
  return absl::StrCat(device.name, " has compute capability ", device.major, ".",
                      device.minor, "; ", kLeastMajor, ".0 or newer is needed");
}

std::string Version(int32_t version) {
  return absl::StrCat(version / 1000, ".", version % 1000 / 10);
}

// Why no GPU at all can be used; "": some are there.
std::string WhyNoDevices(const CudaProbe& probe) {
  if (!probe.built) {
    return "this program was built without CUDA; build the preset cuda-release";
  }
  if (probe.driver_version == 0) {
    return absl::StrCat("there is no NVIDIA driver; one for CUDA ",
                        Version(probe.needs_version), " or newer is needed");
  }
  if (probe.driver_version < probe.needs_version) {
    return absl::StrCat("the NVIDIA driver is for CUDA ", Version(probe.driver_version),
                        "; one for CUDA ", Version(probe.needs_version),
                        " or newer is needed");
  }
  if (!probe.error.empty()) return absl::StrCat("CUDA finds no GPU: ", probe.error);
  return probe.devices.empty() ? "CUDA finds no GPU" : "";
}

absl::Status Refused(const std::string& device, const std::string& why) {
  return absl::FailedPreconditionError(absl::StrCat("device is ", device, "; ", why));
}

ChosenDevice Gpu(const CudaProbe& probe, int32_t index) {
  return {{DeviceKind::kCuda, index}, probe.devices[index].name};
}

// The first GPU that can be used, else the CPU and why.
ChosenDevice FirstUsable(const CudaProbe& probe) {
  if (std::string why = WhyNoDevices(probe); !why.empty()) return {{}, std::move(why)};
  for (size_t i = 0; i < probe.devices.size(); ++i) {
    if (Usable(probe.devices[i])) return Gpu(probe, static_cast<int32_t>(i));
  }
  return {{}, TooOld(probe.devices.front())};
}

absl::StatusOr<ChosenDevice> Numbered(const CudaProbe& probe, int32_t index) {
  const std::string name = DeviceName({DeviceKind::kCuda, index});
  if (std::string why = WhyNoDevices(probe); !why.empty()) return Refused(name, why);
  const int32_t count = static_cast<int32_t>(probe.devices.size());
  if (index < 0 || index >= count) {
    return absl::InvalidArgumentError(
        absl::StrCat("device is ", name, "; CUDA finds ", count,
                     " GPUs here, so it must be in [cuda:0, cuda:", count - 1, "]"));
  }
  const CudaDevice& device = probe.devices[index];
  if (!Usable(device)) return Refused(name, TooOld(device));
  return Gpu(probe, index);
}

}  // namespace

std::string DeviceName(const Device& device) {
  return device.kind == DeviceKind::kCpu ? "cpu" : absl::StrCat("cuda:", device.index);
}

absl::StatusOr<DeviceRequest> ParseDevice(std::string_view text) {
  if (text == "auto") return DeviceRequest{};
  if (text == "cpu") return DeviceRequest{.kind = DeviceKind::kCpu};
  if (text == "cuda") return DeviceRequest{.kind = DeviceKind::kCuda};
  absl::string_view rest = ToAbsl(text);
  int32_t index = 0;
  // SimpleAtoi also takes blanks and signs.
  if (absl::ConsumePrefix(&rest, "cuda:") && absl::SimpleAtoi(rest, &index) &&
      index >= 0 && index <= kMaxIndex && absl::StrCat(index) == rest) {
    return DeviceRequest{.kind = DeviceKind::kCuda, .index = index};
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "device is '", ToAbsl(text),
      "'; it must be auto, cpu, cuda or cuda:N with N in [0, ", kMaxIndex, "]"));
}

absl::StatusOr<ChosenDevice> ChooseDevice(const DeviceRequest& request,
                                          const CudaProbe& probe) {
  if (request.kind == DeviceKind::kCpu) return ChosenDevice{};
  if (request.index.has_value()) return Numbered(probe, *request.index);
  ChosenDevice first = FirstUsable(probe);
  const bool gpu = first.device.kind == DeviceKind::kCuda;
  if (!gpu && request.kind.has_value()) return Refused("cuda", first.note);
  return first;
}

}  // namespace quire

#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "core/kv/block_pool.h"
#include "core/runner/device.h"
#include "core/step/step.h"
#include "core/weights/model_files.h"

// The facade of quire_compute: no Torch in this header.
namespace quire {

enum class ComputeType : uint8_t { kAuto, kFloat32, kBFloat16 };

struct RunnerOptions {
  ComputeType compute =
      ComputeType::kAuto;      // kAuto: bfloat16 where the CPU multiplies it faster
  int64_t kv_cache_bytes = 0;  // 0: from free memory, see PlanKvCache
  int32_t tokens_per_block = 64;
  int32_t threads = 0;         // of one step; 0: as many as the CPU has cores
  std::string device = "cpu";  // see ParseDevice; auto: a GPU if one can be used
};

struct LoadedRunner {
  std::unique_ptr<ModelRunner> runner;
  KvGeometry kv;
  ComputeType compute = ComputeType::kFloat32;
  int64_t weight_bytes = 0;  // held by the runner
  int64_t kv_cache_bytes = 0;
  // AttentionOptions::refined_pays_from of every step, whatever the items say: for those
  // who want to know beforehand how AUTO will be read.
  int32_t refined_pays_from = 0;
  Device device;
  std::string device_note;  // of ChosenDevice
};

// Reads, merges and converts the weights, and makes the cache. The weight file may be
// closed after. kInvalidArgument / kNotFound name the tensor; kResourceExhausted: not
// enough memory; NaN or infinite weights are kInvalidArgument. A device that cannot be
// used is refused as ParseDevice and ChooseDevice say.
absl::StatusOr<LoadedRunner> LoadRunner(const ModelFiles& files,
                                        const RunnerOptions& options);

std::string_view ComputeTypeName(ComputeType type);

}  // namespace quire

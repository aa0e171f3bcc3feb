#include "core/runner/load_cuda_runner.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "c10/core/DeviceGuard.h"
#include "c10/core/InferenceMode.h"
#include "c10/util/Exception.h"
#include "core/base/status_macros.h"
#include "core/dga/group_plan.h"
#include "core/kernels/cuda/cuda_kernels.h"
#include "core/kv/memory_plan.h"
#include "core/model/cuda_check.h"
#include "core/model/layer_parts.h"
#include "core/runner/cuda_model_runner.h"
#include "core/runner/refined_pays.h"

namespace quire {
namespace {

// Kept free beside weights and cache: activations of a step and LibTorch's own needs.
constexpr int64_t kReservedBytes = int64_t{2} << 30;

absl::Status CheckOptions(const RunnerOptions& options, const Device& device) {
  if (options.compute == ComputeType::kFloat32) {
    return absl::UnimplementedError(
        absl::StrCat("compute is float32; device ", DeviceName(device),
                     " computes in bfloat16, use device cpu for float32"));
  }
  if (options.tokens_per_block != kernels::cuda::kPageTokens) {
    return absl::UnimplementedError(
        absl::StrCat("cache blocks have ", options.tokens_per_block, " tokens; device ",
                     DeviceName(device), " takes ", kernels::cuda::kPageTokens));
  }
  return absl::OkStatus();
}

struct DeviceMemory {
  size_t free = 0, total = 0;
};
DeviceMemory MemoryNow() {
  DeviceMemory memory;
  ThrowIfError(cudaMemGetInfo(&memory.free, &memory.total));
  return memory;
}

// Before anything is sent: a large model takes minutes to read.
absl::Status CheckWeightsFit(const ModelFiles& files, const Device& device) {
  const DeviceMemory memory = MemoryNow();
  const int64_t needed = WeightBytesOf(files.config, 2);
  if (needed <= static_cast<int64_t>(memory.free)) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrCat(
      "the weights of ", files.name, " take ", needed, " bytes in bfloat16; device ",
      DeviceName(device), " has ", memory.free, " free of ", memory.total));
}

// For the cache, or for what comes beside it.
int64_t BytesLeft() {
  return std::max<int64_t>(0, static_cast<int64_t>(MemoryNow().free) - kReservedBytes);
}

// Of FAITHFUL at its defaults, for each byte of keys and values: of a whole window.
double GroupsShare(const ModelConfig& config) {
  const int64_t tokens = config.max_positions, d = config.head_dim;
  return static_cast<double>(GroupBytes({}, tokens, d)) /
         static_cast<double>(tokens * 4 * d);
}

absl::StatusOr<LoadedRunner> Load(const ModelFiles& files, const RunnerOptions& options,
                                  const Device& device) {
  const c10::InferenceMode inference;
  const at::Device on(at::kCUDA, static_cast<at::DeviceIndex>(device.index));
  const c10::DeviceGuard guard(on);
  LoadedRunner loaded;
  loaded.device = device;
  loaded.compute = ComputeType::kBFloat16;
  QUIRE_RETURN_IF_ERROR(CheckWeightsFit(files, device));
  QUIRE_ASSIGN_OR_RETURN(std::unique_ptr<CudaDecoder> decoder,
                         CudaDecoder::Load(files.config, *files.weights, on));
  files.weights->Release();
  loaded.weight_bytes = decoder->weight_bytes();
  QUIRE_ASSIGN_OR_RETURN(
      loaded.kv,
      PlanKvCache(files.config, {.kv_cache_bytes = options.kv_cache_bytes,
                                 .available_bytes = BytesLeft(),
                                 .limited = true,
                                 .index_share = CudaKvCache::IndexShare(files.config),
                                 .groups_share = GroupsShare(files.config),
                                 .bytes_per_value = 2,
                                 .tokens_per_block = options.tokens_per_block}));
  loaded.refined_pays_from = RefinedPaysFrom(files.config, decoder->refines_prompts(),
                                             CudaKvCache::HasIndex(files.config));
  auto cache = std::make_unique<CudaKvCache>(files.config, loaded.kv, on);
  loaded.kv_cache_bytes = cache->bytes();
  loaded.runner = std::make_unique<CudaModelRunner>(
      std::move(decoder), std::move(cache), loaded.kv, /*group_bytes=*/BytesLeft());
  return loaded;
}

}  // namespace

absl::StatusOr<LoadedRunner> LoadCudaRunner(const ModelFiles& files,
                                            const RunnerOptions& options,
                                            const Device& device) {
  QUIRE_RETURN_IF_ERROR(CheckOptions(options, device));
  try {
    return Load(files, options, device);
  } catch (const c10::OutOfMemoryError& error) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "not enough memory on ", DeviceName(device), " for the weights and cache of ",
        files.name, ": ", error.what_without_backtrace()));
  } catch (const c10::Error& error) {
    return absl::InternalError(error.what_without_backtrace());
  }
}

}  // namespace quire

#include <new>
#include <thread>
#include <utility>

#include "ATen/Parallel.h"
#include "absl/strings/str_cat.h"
#include "c10/core/InferenceMode.h"
#include "c10/util/Exception.h"
#include "core/base/status_macros.h"
#include "core/kv/memory_plan.h"
#include "core/runner/load_cuda_runner.h"
#include "core/runner/model_runner.h"
#include "core/runner/probe_cuda.h"
#include "core/runner/runner.h"

namespace quire {
namespace {

// What the bfloat16 kernels ask of a model's shape.
bool FitsBFloat16(const ModelConfig& c, int32_t tokens_per_block) {
  return c.head_dim % 64 == 0 && c.head_dim <= 256 && c.hidden_size % 2 == 0 &&
         c.intermediate_size % 2 == 0 && tokens_per_block % 16 == 0;
}

absl::StatusOr<ComputeType> ChooseCompute(const ModelConfig& c,
                                          const RunnerOptions& options) {
  const bool fits = FitsBFloat16(c, options.tokens_per_block);
  switch (options.compute) {
    case ComputeType::kAuto:
      return kernels::HasFastBFloat16() && fits ? ComputeType::kBFloat16
                                                : ComputeType::kFloat32;
    case ComputeType::kFloat32:
      return ComputeType::kFloat32;
    case ComputeType::kBFloat16:
      if (!kernels::HasFastBFloat16()) {
        return absl::FailedPreconditionError(
            "compute is bfloat16; this CPU has no AVX512-BF16, use float32 or auto");
      }
      if (!fits) {
        return absl::UnimplementedError(absl::StrCat(
            "compute is bfloat16; it needs a head size that is a multiple of 64, not ",
            c.head_dim, ", and cache blocks of a multiple of 16 tokens, not ",
            options.tokens_per_block));
      }
      return ComputeType::kBFloat16;
  }
  return absl::InternalError("unknown compute type");
}

// Refined attention in float32 is one scalar loop, the reference of the fast kernels:
// quire-19m scores 7,100 tokens in 229 s with it, and in 12 s densely (AVX2, two cores).
int32_t RefinedPaysFrom(ComputeType compute) {
  return compute == ComputeType::kBFloat16 ? 0 : kNeverPays;
}

absl::StatusOr<LoadedRunner> Load(const ModelFiles& files, const RunnerOptions& options) {
  const c10::InferenceMode inference;
  LoadedRunner loaded;
  QUIRE_ASSIGN_OR_RETURN(const DeviceRequest request, ParseDevice(options.device));
  QUIRE_ASSIGN_OR_RETURN(ChosenDevice chosen, ChooseDevice(request, ProbeCuda()));
  loaded.device = chosen.device;
  loaded.device_note = std::move(chosen.note);
  if (loaded.device.kind == DeviceKind::kCuda) {
    QUIRE_ASSIGN_OR_RETURN(LoadedRunner on_gpu,
                           LoadCudaRunner(files, options, loaded.device));
    on_gpu.device_note = std::move(loaded.device_note);
    return on_gpu;
  }
  QUIRE_ASSIGN_OR_RETURN(loaded.compute, ChooseCompute(files.config, options));
  const bool bf16 = loaded.compute == ComputeType::kBFloat16;
  const at::ScalarType type = bf16 ? at::kBFloat16 : at::kFloat;
  QUIRE_ASSIGN_OR_RETURN(std::unique_ptr<Decoder> decoder,
                         Decoder::Load(files.config, *files.weights, type));
  files.weights->Release();
  loaded.weight_bytes = decoder->weight_bytes();
  QUIRE_ASSIGN_OR_RETURN(
      loaded.kv,
      PlanKvCache(files.config, {.kv_cache_bytes = options.kv_cache_bytes,
                                 .available_bytes = AvailableMemoryBytes(),
                                 .bytes_per_value = bf16 ? 2 : 4,
                                 .tokens_per_block = options.tokens_per_block}));
  auto cache = std::make_unique<KvCache>(files.config, loaded.kv, type);
  loaded.kv_cache_bytes = cache->bytes();
  loaded.refined_pays_from = RefinedPaysFrom(loaded.compute);
  loaded.runner = std::make_unique<CpuModelRunner>(std::move(decoder), std::move(cache),
                                                   loaded.kv, loaded.refined_pays_from);
  return loaded;
}

}  // namespace

absl::StatusOr<LoadedRunner> LoadRunner(const ModelFiles& files,
                                        const RunnerOptions& options) {
  if (options.threads < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("threads is ", options.threads, "; it must not be negative"));
  }
  const int cores = static_cast<int>(std::thread::hardware_concurrency());
  at::set_num_threads(options.threads > 0 ? options.threads : std::max(1, cores));
  try {
    return Load(files, options);
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError(
        absl::StrCat("not enough memory for the weights and cache of ", files.name));
  } catch (const c10::Error& error) {
    return absl::ResourceExhaustedError(error.what_without_backtrace());
  }
}

}  // namespace quire

#include "core/runner/load_cuda_runner.h"
#include "core/runner/probe_cuda.h"

// What a build without CUDA has in its place.
namespace quire {

CudaProbe ProbeCuda() { return {}; }

absl::StatusOr<LoadedRunner> LoadCudaRunner(const ModelFiles&, const RunnerOptions&,
                                            const Device&) {
  return absl::FailedPreconditionError("this build has no CUDA");
}

}  // namespace quire

#pragma once

#include "absl/status/statusor.h"
#include "core/runner/runner.h"

namespace quire {

// As LoadRunner, on the GPU. kResourceExhausted: the weights or the cache do not fit.
// kFailedPrecondition: this build has no CUDA.
absl::StatusOr<LoadedRunner> LoadCudaRunner(const ModelFiles& files,
                                            const RunnerOptions& options,
                                            const Device& device);

}  // namespace quire

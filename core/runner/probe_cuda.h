#pragma once

#include "core/runner/device.h"

namespace quire {

// Asks the CUDA runtime what is there, if this build has it; makes no context on any
// device. CUDA counts what CUDA_VISIBLE_DEVICES shows. Thread-safe.
CudaProbe ProbeCuda();

}  // namespace quire

#include "core/runner/probe_cuda.h"

namespace quire {

CudaProbe ProbeCuda() { return {}; }

}  // namespace quire

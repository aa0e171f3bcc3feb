#pragma once

#include <string>

#include "core/model/cuda_weights.h"
#include "tests/benchmarks/cuda_attention/timer.h"
#include "tests/benchmarks/cuda_step/report.h"

namespace quire::cuda_step {

// The linear layers of a model of a known shape, each in turn over several layers'
// weights, for `rows` rows: by the decoder's kernel and by cuBLAS.
void MeasureLinears(const std::string& model, int64_t rows, at::Device device,
                    cuda_attention::Timer& timer, Report& report);

}  // namespace quire::cuda_step

#pragma once

#include <cstdint>

#include "tests/benchmarks/cuda_attention/report.h"
#include "tests/benchmarks/cuda_attention/timer.h"

namespace quire::cuda_attention {

// What one H200 does, measured (device-to-device copy; bf16 matrix product of 8192^3).
inline constexpr double kCopyLimit = 4.1;    // TB/s
inline constexpr double kMatrixLimit = 750;  // TFLOP/s

struct Shape {
  int64_t query_heads, kv_heads, dim;
  int64_t length;
  int64_t batch;
};
std::string Name(const Shape& shape);

// Each measures a shape and adds its rows; false if results of two kernels differ.
//
// One new token of each sequence, over scattered pages; peers have the same keys and
// values contiguous. The rate is of keys and values, each read once.
bool MeasureDecode(const Shape& shape, Timer& timer, Report& report);

// The same by refined attention, against the project's dense decode, at shares of the
// keys that are read; and what its index costs to make. The rate is of its own bytes.
bool MeasureRefined(const Shape& shape, Timer& timer, Report& report);

// Causal attention of a whole prompt; bfloat16. The rate is of the products that
// causality leaves.
bool MeasurePrefill(const Shape& shape, Timer& timer, Report& report);

}  // namespace quire::cuda_attention

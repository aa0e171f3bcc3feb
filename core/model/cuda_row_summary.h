#pragma once

#include <cstdint>

#include "ATen/core/Tensor.h"

namespace quire {

// What is kept of a row of logits, see kernels::cuda::RowSummary; log sum and logits are
// the bits of float32.
enum class RowNumber : int64_t { kLogSum, kBest, kBestLogit, kTargetLogit, kLarger };
inline constexpr int64_t kRowNumbers = 5;

// logits [T, vocab] float32 and targets [T] on a GPU, negative: none -> [kRowNumbers, T]
// int32 there. Only launches.
at::Tensor SummarizeLogits(const at::Tensor& logits, const int32_t* targets);

}  // namespace quire

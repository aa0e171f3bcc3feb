#include "core/model/cuda_row_summary.h"

#include "ATen/ops/empty.h"
#include "c10/cuda/CUDAStream.h"
#include "core/kernels/cuda/cuda_kernels.h"
#include "core/model/cuda_check.h"

namespace quire {

at::Tensor SummarizeLogits(const at::Tensor& logits, const int32_t* targets) {
  const int64_t rows = logits.size(0);
  at::Tensor numbers = at::empty({kRowNumbers, rows}, logits.options().dtype(at::kInt));
  const auto ints = [&](RowNumber i) {
    return numbers.data_ptr<int32_t>() + static_cast<int64_t>(i) * rows;
  };
  const auto floats = [&](RowNumber i) { return reinterpret_cast<float*>(ints(i)); };
  ThrowIfError(
      kernels::cuda::SummarizeRows({.logits = logits.const_data_ptr<float>(),
                                    .targets = targets,
                                    .rows = rows,
                                    .vocab = logits.size(1),
                                    .log_sum = floats(RowNumber::kLogSum),
                                    .best = ints(RowNumber::kBest),
                                    .best_logit = floats(RowNumber::kBestLogit),
                                    .target_logit = floats(RowNumber::kTargetLogit),
                                    .larger = ints(RowNumber::kLarger)},
                                   c10::cuda::getCurrentCUDAStream()));
  return numbers;
}

}  // namespace quire

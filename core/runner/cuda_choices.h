#pragma once

#include <cstdint>
#include <vector>

#include "ATen/core/Tensor.h"
#include "absl/types/span.h"
#include "core/kernels/cuda/sample.h"
#include "core/sampling/sampler.h"

namespace quire {

// Tokens that the device chooses from rows of logits, and lists of their largest ones: of
// a row but a few numbers come to the host.
class CudaChoices {
 public:
  // Sample(logits[row], params, history, step); rank: count larger logits, too. Returns
  // its number in here. What history spans must live until Launch.
  size_t AddSample(int64_t row, const SamplingParams& params,
                   absl::Span<const TokenId> history, int64_t step, bool rank);
  // The `count` most probable tokens, 1 <= count <= kernels::cuda::kMaxListedTokens.
  size_t AddList(int64_t row, int32_t count);

  // Launches all of it: a copy of histories if there are any, a kernel for each kind, a
  // copy back.
  // logits [rows, vocab] float32 on a GPU, vocab <= kernels::cuda::kMaxSampledVocab.
  void Launch(const at::Tensor& logits);

  // After the stream was waited for.
  const kernels::cuda::SampledToken& sample(size_t number) const;
  absl::Span<const kernels::cuda::ListedToken> list(size_t number) const;

 private:
  at::Tensor SendHistories(at::Device device) const;
  int64_t ListBytes() const;  // of results

  std::vector<kernels::cuda::SampledRow> samples_;
  std::vector<absl::Span<const TokenId>> histories_;  // of adjusted rows
  int32_t history_size_ = 0;                          // of all of them
  std::vector<kernels::cuda::ListedRow> lists_;
  int32_t longest_list_ = 0;
  int64_t vocab_ = 0;
  at::Tensor results_;  // bytes, pinned: [lists, longest_list_] and [samples]
};

}  // namespace quire

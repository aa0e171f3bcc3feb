#include "core/runner/cuda_readout.h"

#include <algorithm>
#include <cstring>

#include "ATen/ops/empty.h"
#include "ATen/ops/index_select.h"
#include "c10/cuda/CUDAStream.h"
#include "core/base/check.h"
#include "core/kernels/cuda/cuda_kernels.h"
#include "core/model/cuda_check.h"

namespace quire {
namespace {

// Rows of logits that exist at a time: 512 x vocab x 4 bytes.
constexpr size_t kPartRows = 512;

enum Number { kLogSum, kBest, kBestLogit, kTargetLogit, kLarger, kNumbers };

at::Tensor Pinned(at::IntArrayRef shape, at::ScalarType type) {
  return at::empty(shape, at::TensorOptions(type).pinned_memory(true));
}

}  // namespace

size_t CudaReadout::Want(int64_t row, TokenId target, bool whole) {
  wanted_.push_back({row, target, whole ? whole_rows_++ : -1});
  return wanted_.size() - 1;
}

void CudaReadout::Launch() {
  if (wanted_.empty()) return;
  numbers_ = Pinned({kNumbers, static_cast<int64_t>(wanted_.size())}, at::kInt);
  if (whole_rows_ > 0) {
    rows_ = Pinned({whole_rows_, decoder_.config().vocab_size}, at::kFloat);
  }
  for (size_t first = 0; first < wanted_.size(); first += kPartRows) {
    LaunchPart(first, std::min(kPartRows, wanted_.size() - first));
  }
}

void CudaReadout::LaunchPart(size_t first, size_t count) {
  const auto n = static_cast<int64_t>(count);
  const at::Tensor host = Pinned({2, n}, at::kInt);
  std::vector<int32_t> whole;  // of the part's rows
  for (size_t i = 0; i < count; ++i) {
    const Wanted& w = wanted_[first + i];
    host.data_ptr<int32_t>()[i] = static_cast<int32_t>(w.row);
    host.data_ptr<int32_t>()[count + i] = w.target;
    if (w.whole >= 0) whole.push_back(static_cast<int32_t>(i));
  }
  const at::Tensor sent = host.to(hidden_.device(), at::kInt, /*non_blocking=*/true);
  const at::Tensor logits = decoder_.Logits(at::index_select(hidden_, 0, sent[0]));
  at::Tensor numbers = at::empty({kNumbers, n}, sent.options());
  const auto ints = [&](Number i) { return numbers[i].data_ptr<int32_t>(); };
  const auto floats = [&](Number i) { return reinterpret_cast<float*>(ints(i)); };
  ThrowIfError(kernels::cuda::SummarizeRows({.logits = logits.const_data_ptr<float>(),
                                             .targets = sent[1].const_data_ptr<int32_t>(),
                                             .rows = n,
                                             .vocab = logits.size(1),
                                             .log_sum = floats(kLogSum),
                                             .best = ints(kBest),
                                             .best_logit = floats(kBestLogit),
                                             .target_logit = floats(kTargetLogit),
                                             .larger = ints(kLarger)},
                                            c10::cuda::getCurrentCUDAStream()));
  numbers_.narrow(1, static_cast<int64_t>(first), n).copy_(numbers, true);
  if (whole.empty()) return;
  const at::Tensor index = Pinned({static_cast<int64_t>(whole.size())}, at::kInt);
  std::copy(whole.begin(), whole.end(), index.data_ptr<int32_t>());
  const int64_t at = wanted_[first + whole.front()].whole;
  rows_.narrow(0, at, index.size(0))
      .copy_(at::index_select(logits, 0, index.to(hidden_.device(), at::kInt, true)),
             true);
}

CudaReadout::Summary CudaReadout::summary(size_t number) const {
  const auto at = [&](Number i) {
    return numbers_.const_data_ptr<int32_t>() + i * wanted_.size() + number;
  };
  const auto real = [&](Number i) {
    float x;
    std::memcpy(&x, at(i), sizeof x);
    return x;
  };
  return {real(kLogSum), *at(kBest), real(kBestLogit), real(kTargetLogit), *at(kLarger)};
}

absl::Span<const float> CudaReadout::logits(size_t number) const {
  const int64_t whole = wanted_[number].whole;
  QUIRE_CHECK(whole >= 0);
  const int64_t vocab = rows_.size(1);
  return {rows_.const_data_ptr<float>() + whole * vocab, static_cast<size_t>(vocab)};
}

}  // namespace quire

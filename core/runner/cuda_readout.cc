#include "core/runner/cuda_readout.h"

#include <algorithm>
#include <cstring>

#include "ATen/ops/empty.h"
#include "ATen/ops/index_select.h"
#include "core/base/check.h"
#include "core/model/cuda_row_summary.h"

namespace quire {
namespace {

// Rows of logits that exist at a time: 512 x vocab x 4 bytes.
constexpr size_t kPartRows = 512;

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
  if (whole_rows_ > 0) {
    rows_ = Pinned({whole_rows_, decoder_.config().vocab_size}, at::kFloat);
  }
  if (result_.numbers.defined()) {
    SendNumbers();
    return;
  }
  numbers_ = Pinned({kRowNumbers, static_cast<int64_t>(wanted_.size())}, at::kInt);
  for (size_t first = 0; first < wanted_.size(); first += kPartRows) {
    LaunchPart(first, std::min(kPartRows, wanted_.size() - first));
  }
}

void CudaReadout::SendNumbers() {
  numbers_ = Pinned(result_.numbers.sizes(), at::kInt);
  numbers_.copy_(result_.numbers, /*non_blocking=*/true);
  std::vector<int32_t> whole;
  for (const Wanted& w : wanted_) {
    if (w.whole >= 0) whole.push_back(static_cast<int32_t>(w.row));
  }
  SendWhole(result_.logits, whole, 0);
}

void CudaReadout::LaunchPart(size_t first, size_t count) {
  const auto n = static_cast<int64_t>(count);
  const at::Tensor host = Pinned({2, n}, at::kInt);
  std::vector<int32_t> whole;  // of the part's rows
  int64_t first_whole = 0;
  for (size_t i = 0; i < count; ++i) {
    const Wanted& w = wanted_[first + i];
    host.data_ptr<int32_t>()[i] = static_cast<int32_t>(w.row);
    host.data_ptr<int32_t>()[count + i] = w.target;
    if (w.whole < 0) continue;
    if (whole.empty()) first_whole = w.whole;
    whole.push_back(static_cast<int32_t>(i));
  }
  const at::Tensor& hidden = result_.hidden;
  const at::Tensor sent = host.to(hidden.device(), at::kInt, /*non_blocking=*/true);
  const at::Tensor logits = decoder_.Logits(at::index_select(hidden, 0, sent[0]));
  numbers_.narrow(1, static_cast<int64_t>(first), n)
      .copy_(SummarizeLogits(logits, sent[1].const_data_ptr<int32_t>()), true);
  SendWhole(logits, whole, first_whole);
}

void CudaReadout::SendWhole(const at::Tensor& logits, const std::vector<int32_t>& rows,
                            int64_t first) {
  if (rows.empty()) return;
  const at::Tensor index = Pinned({static_cast<int64_t>(rows.size())}, at::kInt);
  std::copy(rows.begin(), rows.end(), index.data_ptr<int32_t>());
  rows_.narrow(0, first, index.size(0))
      .copy_(at::index_select(logits, 0, index.to(logits.device(), at::kInt, true)),
             true);
}

CudaReadout::Summary CudaReadout::summary(size_t number) const {
  const int64_t column =
      result_.numbers.defined() ? wanted_[number].row : static_cast<int64_t>(number);
  const auto at = [&](RowNumber i) {
    return numbers_.const_data_ptr<int32_t>() +
           static_cast<int64_t>(i) * numbers_.size(1) + column;
  };
  const auto real = [&](RowNumber i) {
    float x;
    std::memcpy(&x, at(i), sizeof x);
    return x;
  };
  return {real(RowNumber::kLogSum), *at(RowNumber::kBest), real(RowNumber::kBestLogit),
          real(RowNumber::kTargetLogit), *at(RowNumber::kLarger)};
}

absl::Span<const float> CudaReadout::logits(size_t number) const {
  const int64_t whole = wanted_[number].whole;
  QUIRE_CHECK(whole >= 0);
  const int64_t vocab = rows_.size(1);
  return {rows_.const_data_ptr<float>() + whole * vocab, static_cast<size_t>(vocab)};
}

}  // namespace quire

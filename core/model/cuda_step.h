#pragma once

#include <cstdint>
#include <vector>

#include "ATen/core/Tensor.h"
#include "absl/types/span.h"
#include "core/kernels/kernels.h"

namespace quire {

// What the kernels of a step are told, on the device: made on the host and sent in one
// copy, before the first kernel.
class CudaStep {
 public:
  // tokens [T]; sequences that decode densely: one row, and nothing else is wanted of it.
  CudaStep(absl::Span<const TokenId> tokens,
           absl::Span<const kernels::SequenceRows> sequences,
           absl::Span<const bool> decodes, at::Device device);

  int64_t rows() const { return rows_; }
  const int32_t* tokens() const { return At(0); }         // [T]
  const int32_t* positions() const { return At(rows_); }  // [T]
  const int32_t* slots() const { return At(2 * rows_); }  // [T]

  // Sequences that decode, see kernels::cuda::DecodeArgs.
  int32_t decodes() const { return decodes_; }
  const int32_t* decode_rows() const { return At(decode_at_); }
  const int32_t* decode_lengths() const { return At(decode_at_ + decodes_); }
  const int32_t* decode_first_page() const { return At(decode_at_ + 2 * decodes_); }
  const int32_t* decode_pages() const { return At(decode_at_ + 3 * decodes_ + 1); }

  // The block table of sequence i, which does not decode.
  const int32_t* pages(size_t sequence) const { return At(pages_at_[sequence]); }

 private:
  const int32_t* At(int64_t index) const {
    return table_.const_data_ptr<int32_t>() + index;
  }

  int64_t rows_ = 0;
  int32_t decodes_ = 0;
  int64_t decode_at_ = 0;
  std::vector<int64_t> pages_at_;  // [sequences]
  at::Tensor table_;               // int32 on the device
};

}  // namespace quire

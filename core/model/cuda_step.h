#pragma once

#include <cstdint>
#include <vector>

#include "ATen/core/Tensor.h"
#include "absl/types/span.h"
#include "core/kernels/kernels.h"
#include "core/kernels/refined.h"

namespace quire {

// One sequence of a step on a GPU, and how its rows are read.
struct CudaSequence {
  enum class Reading {
    kPrefill,        // several rows, or a probed one: densely
    kDenseDecode,    // one row
    kRefinedDecode,  // one row with at least one far page, see core/kernels/refined.h
  };
  kernels::SequenceRows rows;
  Reading reading = Reading::kPrefill;
  float eps = 0;  // of kRefinedDecode

  // Far pages of a row that is read kRefinedDecode: pages [1, far_pages() + 1).
  int64_t far_pages() const { return kernels::WindowPage(rows.begin) - 1; }
};

// What the kernels of a step are told, on the device: made on the host and sent in one
// copy, before the first kernel.
class CudaStep {
 public:
  // Tables of decoding sequences in the order of the step, see kernels::cuda::DecodeArgs.
  struct Decode {
    int32_t sequences = 0;
    int64_t page_count = 0;
    const int32_t* rows = nullptr;
    const int32_t* lengths = nullptr;
    const int32_t* first_page = nullptr;
    const int32_t* pages = nullptr;
  };

  // tokens [T]. blocks: whose index is to be made.
  CudaStep(absl::Span<const TokenId> tokens, absl::Span<const CudaSequence> sequences,
           absl::Span<const int32_t> blocks, int32_t layers, int32_t kv_heads,
           at::Device device);

  int64_t rows() const { return rows_; }
  const int32_t* tokens() const { return At(0); }         // [T]
  const int32_t* positions() const { return At(rows_); }  // [T]
  const int32_t* slots() const { return At(2 * rows_); }  // [T]

  Decode dense() const { return Make(dense_); }
  // Of refined sequences: what is read for certain, and the far pages; the latter's rows
  // and lengths mean nothing.
  Decode near() const { return Make(near_); }
  Decode far() const { return Make(far_); }
  const float* log2_tau() const { return reinterpret_cast<const float*>(At(tau_at_)); }
  const int32_t* draw_starts(int32_t layer) const {  // [refined sequences, G]
    return At(starts_at_ + int64_t{layer} * near_.sequences * kv_heads_);
  }

  int64_t index_blocks() const { return index_blocks_; }
  const int32_t* blocks_to_index() const { return At(index_at_); }

  // The block table of sequence i, which is read kPrefill.
  const int32_t* pages(size_t sequence) const { return At(pages_at_[sequence]); }

 private:
  struct Place {
    int32_t sequences = 0;
    int64_t pages = 0;
    int64_t at = 0;
  };
  // A run of pages of each sequence: from which on, how many, and keys that are seen.
  struct Run {
    const kernels::SequenceRows* rows;
    std::vector<int32_t> pages;
    int32_t length;
  };
  const int32_t* At(int64_t index) const {
    return table_.const_data_ptr<int32_t>() + index;
  }
  Decode Make(const Place& place) const;
  void AppendRows(absl::Span<const TokenId> tokens,
                  absl::Span<const CudaSequence> sequences);
  Place Append(const std::vector<Run>& runs);
  void AppendDecodes(absl::Span<const CudaSequence> sequences);
  void AppendDraws(absl::Span<const CudaSequence> sequences, int32_t layers);

  int64_t rows_ = 0;
  int32_t kv_heads_ = 0;
  Place dense_, near_, far_;
  int64_t tau_at_ = 0, starts_at_ = 0, index_at_ = 0, index_blocks_ = 0;
  std::vector<int64_t> pages_at_;  // [sequences]
  std::vector<int32_t> host_;      // while it is made
  at::Tensor table_;               // int32 on the device
};

}  // namespace quire

#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "ATen/core/Tensor.h"
#include "absl/types/span.h"
#include "core/kernels/kernels.h"
#include "core/kernels/refined.h"

namespace quire {

class CudaFaithful;

// One sequence of a step on a GPU, and how its rows are read.
struct CudaSequence {
  enum class Reading {
    kPrefill,        // several rows, or a probed one
    kDenseDecode,    // one row
    kRefinedDecode,  // one row with at least one far page, see core/kernels/refined.h
    kFaithful,       // any number of rows, by `faithful`
  };
  kernels::SequenceRows rows;
  Reading reading = Reading::kPrefill;
  float eps = 0;  // of rows that are read refined
  // Of kPrefill: the last so many rows are read refined, see
  // core/kernels/cuda/refined_prefill.h, those before densely.
  int64_t refined_rows = 0;
  TokenId target = -1;               // of one row: whose logit is wanted, or -1
  CudaFaithful* faithful = nullptr;  // of kFaithful
  // Rows of the sequence, ascending, that are read densely once more, to compare.
  std::vector<int64_t> audited;

  // Far pages of a row that is read kRefinedDecode: pages [1, far_pages() + 1).
  int64_t far_pages() const { return kernels::WindowPage(rows.begin) - 1; }
};

// What the kernels of a step are told, on the device: made on the host and sent in one
// copy, before the first kernel.
class CudaStep {
 public:
  // Entries that the tables have places for. The places depend on nothing else, so that
  // steps of one shape in the same memory may be captured in a CUDA graph.
  struct Shape {
    int64_t rows = 0;
    int64_t targets = 0;                                     // 0, or rows
    int32_t dense = 0, refined = 0;                          // decoding sequences
    int64_t dense_pages = 0, near_pages = 0, far_pages = 0;  // of all of them
    int64_t prompt_pages = 0;
    int32_t audits = 0;  // rows
    int64_t audit_pages = 0;

    // No place that is not used. Targets have none.
    static Shape Of(absl::Span<const CudaSequence> sequences);
  };
  // Of a refined row: pages that are read for certain.
  static constexpr int64_t kMaxNearPages = kWindowTokens / kGroupTokens + 2;

  // Where the tables are: on the host pinned, so that their copy does not wait.
  struct Memory {
    at::Tensor host, device;  // [entries] int32
    // Of memory that stays: its last copy, which is waited for before the host's side is
    // written again. It is long over, unless the step failed.
    std::shared_ptr<CUevent_st> sent;
    static Memory Make(int64_t entries, at::Device device);
    static Memory MakeLasting(int64_t entries, at::Device device);
  };
  static int64_t Entries(const Shape& shape);

  // Tables of decoding sequences in the order of the step, see kernels::cuda::DecodeArgs.
  struct Decode {
    int32_t sequences = 0;
    int64_t page_count = 0;
    const int32_t* rows = nullptr;
    const int32_t* lengths = nullptr;
    const int32_t* first_page = nullptr;
    const int32_t* pages = nullptr;
  };

  // tokens [T]. In memory of its own, with places for exactly what there is.
  CudaStep(absl::Span<const TokenId> tokens, absl::Span<const CudaSequence> sequences,
           at::Device device);
  // In memory that has Entries(shape); no kernel reads it any more. Rows that are
  // there in excess have token 0 and are kept nowhere; sequences in excess come last and
  // have no pages, so that no kernel visits them: their results are not written.
  CudaStep(const Shape& shape, absl::Span<const TokenId> tokens,
           absl::Span<const CudaSequence> sequences, const Memory& memory);

  int64_t rows() const { return shape_.rows; }
  const int32_t* tokens() const { return At(0); }                 // [T]
  const int32_t* positions() const { return At(shape_.rows); }    // [T]
  const int32_t* slots() const { return At(2 * shape_.rows); }    // [T]; -1: none
  const int32_t* targets() const { return At(3 * shape_.rows); }  // [shape.targets]

  Decode dense() const;
  // Of refined sequences: what is read for certain, and the far pages; the latter have no
  // rows and lengths.
  Decode near() const;
  Decode far() const;
  const float* log2_tau() const { return reinterpret_cast<const float*>(At(at_.tau)); }

  // Audited rows of all sequences, each as if it decoded, and [audits] int32.
  Decode audits() const;
  at::Tensor audited_rows() const { return device_.narrow(0, at_.audits, shape_.audits); }

  // The block table of sequence i, which is read kPrefill or kFaithful.
  const int32_t* pages(size_t sequence) const { return At(prompts_[sequence]); }

 private:
  // Indices of the tables. What may be long comes last: its unused end is not sent.
  struct Places {
    int64_t targets, dense, near, far, tau, audits;
    int64_t near_pages, dense_pages, far_pages, prompt_pages, audit_pages, end;
    explicit Places(const Shape& shape);
  };
  class Writer;
  Decode Make(int32_t sequences, int64_t page_count, int64_t at, int64_t pages) const;
  const int32_t* At(int64_t index) const {
    return device_.const_data_ptr<int32_t>() + index;
  }

  Shape shape_;
  Places at_;
  std::vector<int64_t> prompts_;  // [sequences] index of its block table
  at::Tensor device_;
};

}  // namespace quire

#pragma once

#include "ATen/core/Tensor.h"
#include "core/kernels/cuda/cuda_kernels.h"
#include "tests/benchmarks/cuda_attention/cases.h"

namespace quire::cuda_attention {

// Inputs that are measured in turn have this many bytes together: several times the L2,
// so that keys and values come from memory.
inline constexpr double kRotatedBytes = 512e6;

// Keys and values of all sequences.
double KvBytes(const Shape& shape);

// One layer's cache in pages that lie scattered, and a query for each sequence.
struct PagedInputs {
  explicit PagedInputs(const Shape& s);

  at::Tensor q;      // [B, H, 1, D]
  at::Tensor k, v;   // [blocks, G, 64, D]
  at::Tensor pages;  // [B * pages], block ids
};

// The project's dense decode over inputs of one shape.
class Own {
 public:
  explicit Own(const Shape& shape);
  void Launch(const PagedInputs& in, const at::Tensor& out) const;

  // All but q, k, v, pages and out.
  const kernels::cuda::DecodeArgs& args() const { return args_; }
  cudaStream_t stream() const { return stream_; }

 private:
  cudaStream_t stream_;
  at::Tensor rows_, lengths_, first_page_, workspace_;
  kernels::cuda::DecodeArgs args_;
};

}  // namespace quire::cuda_attention

#pragma once

#include "ATen/core/Tensor.h"
#include "ATen/ops/linear.h"
#include "ATen/ops/mm.h"

namespace quire {

// A linear layer's weight on a GPU, for cuBLAS. Immutable.
struct CudaLinear {
  at::Tensor weight;  // [out, in] bfloat16
  at::Tensor bias;    // [out] bfloat16, or undefined

  // x [T, in] -> [T, out]
  at::Tensor Apply(const at::Tensor& x) const { return at::linear(x, weight, bias); }
  // x [T, in] -> [T, out] float32; for layers without a bias
  at::Tensor ApplyF32(const at::Tensor& x) const {
    return at::mm(x, weight.t(), at::kFloat);
  }
  int64_t bytes() const {
    return static_cast<int64_t>(weight.nbytes() + (bias.defined() ? bias.nbytes() : 0));
  }
};

}  // namespace quire

#pragma once

#include "ATen/core/Tensor.h"

namespace quire {

// A linear layer's weight on a GPU: for few rows an own kernel, else cuBLAS. Immutable.
struct CudaLinear {
  at::Tensor weight;  // [out, in] bfloat16
  at::Tensor bias;    // [out] bfloat16, or undefined

  // x [T, in] -> [T, out]
  at::Tensor Apply(const at::Tensor& x) const;
  // x [T, in] -> [T, out / 2]: the first half of the features is a gate, silu(gate) times
  // the other half.
  at::Tensor ApplyGated(const at::Tensor& x) const;
  // x [T, in] -> [T, out] float32; for layers without a bias
  at::Tensor ApplyF32(const at::Tensor& x) const;
  int64_t bytes() const {
    return static_cast<int64_t>(weight.nbytes() + (bias.defined() ? bias.nbytes() : 0));
  }
};

}  // namespace quire

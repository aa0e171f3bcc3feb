#include "core/model/cuda_linear.h"

#include "ATen/ops/empty.h"
#include "ATen/ops/linear.h"
#include "ATen/ops/mm.h"
#include "c10/cuda/CUDAStream.h"
#include "core/kernels/cuda/cuda_kernels.h"
#include "core/model/cuda_check.h"

namespace quire {
namespace {

using kernels::cuda::Bf16;

bool HasFewRows(const at::Tensor& x, const at::Tensor& weight) {
  return kernels::cuda::HasLinearKernel(x.size(0), weight.size(1), weight.size(0));
}

at::Tensor FewRows(const at::Tensor& x, const CudaLinear& linear, at::ScalarType type) {
  const auto bf16 = [](const at::Tensor& t) {
    return t.defined() ? static_cast<const Bf16*>(t.const_data_ptr()) : nullptr;
  };
  const at::Tensor& weight = linear.weight;
  at::Tensor out = at::empty({x.size(0), weight.size(0)}, x.options().dtype(type));
  ThrowIfError(kernels::cuda::LinearRows({.x = bf16(x),
                                          .weight = bf16(weight),
                                          .bias = bf16(linear.bias),
                                          .out = out.data_ptr(),
                                          .float_out = type == at::kFloat,
                                          .rows = x.size(0),
                                          .in = weight.size(1),
                                          .features = weight.size(0)},
                                         c10::cuda::getCurrentCUDAStream()));
  return out;
}

}  // namespace

at::Tensor CudaLinear::Apply(const at::Tensor& x) const {
  return HasFewRows(x, weight) ? FewRows(x, *this, at::kBFloat16)
                               : at::linear(x, weight, bias);
}

at::Tensor CudaLinear::ApplyF32(const at::Tensor& x) const {
  return HasFewRows(x, weight) ? FewRows(x, *this, at::kFloat)
                               : at::mm(x, weight.t(), at::kFloat);
}

}  // namespace quire

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

Bf16* Data(const at::Tensor& t) {
  return t.defined() ? static_cast<Bf16*>(t.data_ptr()) : nullptr;
}

// From so many rows and bytes on cuBLAS is faster than what does not stream (measured:
// cuda_step --linears).
constexpr int64_t kCublasRows = 9;
constexpr int64_t kCublasBytes = 8 << 20;

bool HasFewRows(const at::Tensor& x, const at::Tensor& weight, int64_t features) {
  const auto bytes = static_cast<int64_t>(weight.nbytes());
  return kernels::cuda::HasLinearKernel(x.size(0), weight.size(1), features) &&
         (x.size(0) < kCublasRows || bytes < kCublasBytes ||
          kernels::cuda::StreamsLinear(bytes));
}

at::Tensor FewRows(const at::Tensor& x, const CudaLinear& linear, at::ScalarType type,
                   bool gated) {
  const at::Tensor& weight = linear.weight;
  const int64_t features = weight.size(0) / (gated ? 2 : 1);
  at::Tensor out = at::empty({x.size(0), features}, x.options().dtype(type));
  ThrowIfError(kernels::cuda::LinearRows({.x = Data(x),
                                          .weight = Data(weight),
                                          .bias = Data(linear.bias),
                                          .out = out.data_ptr(),
                                          .float_out = type == at::kFloat,
                                          .gated = gated,
                                          .rows = x.size(0),
                                          .in = weight.size(1),
                                          .features = features},
                                         c10::cuda::getCurrentCUDAStream()));
  return out;
}

}  // namespace

at::Tensor CudaLinear::Apply(const at::Tensor& x) const {
  return HasFewRows(x, weight, weight.size(0)) ? FewRows(x, *this, at::kBFloat16, false)
                                               : at::linear(x, weight, bias);
}

at::Tensor CudaLinear::ApplyGated(const at::Tensor& x) const {
  const int64_t inner = weight.size(0) / 2;
  if (HasFewRows(x, weight, inner)) return FewRows(x, *this, at::kBFloat16, true);
  const at::Tensor both = at::linear(x, weight, bias);
  at::Tensor out = at::empty({x.size(0), inner}, x.options());
  ThrowIfError(kernels::cuda::SiluMul(Data(both), x.size(0), inner, Data(out),
                                      c10::cuda::getCurrentCUDAStream()));
  return out;
}

at::Tensor CudaLinear::ApplyF32(const at::Tensor& x) const {
  return HasFewRows(x, weight, weight.size(0)) ? FewRows(x, *this, at::kFloat, false)
                                               : at::mm(x, weight.t(), at::kFloat);
}

}  // namespace quire

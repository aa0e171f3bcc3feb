#include "ATen/ops/linear.h"

#include "ATen/Parallel.h"
#include "ATen/ops/empty.h"
#include "core/base/check.h"
#include "core/kernels/cpu/bf16_kernels.h"
#include "core/kernels/kernels.h"

namespace quire::kernels {
namespace {

constexpr int64_t kPanelColumns = 64;

int64_t Panels(int64_t out) { return (out + kPanelColumns - 1) / kPanelColumns; }

const uint16_t* Bits(const at::Tensor& t) {
  return static_cast<const uint16_t*>(t.const_data_ptr());
}

void RunPanels(const bf16::LinearArgs& args) {
  at::parallel_for(0, Panels(args.out), 1, [&](int64_t first, int64_t last) {
    bf16::LinearPanels(args, first, last);
  });
}

}  // namespace

Linear Linear::Pack(const at::Tensor& weight, const at::Tensor& bias,
                    at::ScalarType compute) {
  QUIRE_CHECK(weight.dim() == 2 && weight.scalar_type() == at::kFloat &&
              weight.is_contiguous());
  Linear linear;
  linear.out_ = weight.size(0);
  linear.in_ = weight.size(1);
  linear.bias_ = bias;
  linear.packed_ = compute == at::kBFloat16;
  if (!linear.packed_) {
    linear.weight_ = weight;
    return linear;
  }
  QUIRE_CHECK(HasFastBFloat16() && linear.in_ % 2 == 0);
  linear.weight_ = at::empty({bf16::PackedSize(linear.out_, linear.in_)}, at::kBFloat16);
  auto* const packed = static_cast<uint16_t*>(linear.weight_.data_ptr());
  at::parallel_for(0, Panels(linear.out_), 1, [&](int64_t first, int64_t last) {
    bf16::PackPanels(weight.const_data_ptr<float>(), linear.out_, linear.in_, first, last,
                     packed);
  });
  return linear;
}

at::Tensor Linear::Apply(const at::Tensor& x) const {
  if (!packed_) return at::linear(x, weight_, bias_);
  at::Tensor y = at::empty({x.size(0), out_}, at::kBFloat16);
  RunPanels({.x = Bits(x),
             .packed = Bits(weight_),
             .bias = bias_.defined() ? bias_.const_data_ptr<float>() : nullptr,
             .y = y.data_ptr(),
             .rows = x.size(0),
             .in = in_,
             .out = out_,
             .store = bf16::Store::kBFloat16});
  return y;
}

at::Tensor Linear::ApplyF32(const at::Tensor& x) const {
  if (!packed_) return at::linear(x, weight_, bias_);
  at::Tensor y = at::empty({x.size(0), out_}, at::kFloat);
  RunPanels({.x = Bits(x),
             .packed = Bits(weight_),
             .bias = bias_.defined() ? bias_.const_data_ptr<float>() : nullptr,
             .y = y.data_ptr(),
             .rows = x.size(0),
             .in = in_,
             .out = out_,
             .store = bf16::Store::kFloat32});
  return y;
}

void Linear::AddTo(const at::Tensor& x, at::Tensor& sum) const {
  QUIRE_CHECK(sum.scalar_type() == at::kFloat && sum.size(0) == x.size(0) &&
              sum.size(1) == out_);
  if (!packed_) {
    sum.add_(at::linear(x, weight_, bias_));
    return;
  }
  RunPanels({.x = Bits(x),
             .packed = Bits(weight_),
             .bias = bias_.defined() ? bias_.const_data_ptr<float>() : nullptr,
             .y = sum.data_ptr(),
             .rows = x.size(0),
             .in = in_,
             .out = out_,
             .store = bf16::Store::kAddFloat32});
}

at::Tensor Linear::Rows(absl::Span<const TokenId> ids) const {
  at::Tensor rows = at::empty({static_cast<int64_t>(ids.size()), in_}, at::kFloat);
  float* const out = rows.data_ptr<float>();
  for (size_t i = 0; i < ids.size(); ++i) {
    QUIRE_CHECK(ids[i] >= 0 && ids[i] < out_);
    if (packed_) {
      bf16::UnpackRow(Bits(weight_), in_, ids[i], out + i * in_);
    } else {
      const float* const row = weight_.const_data_ptr<float>() + ids[i] * in_;
      std::copy(row, row + in_, out + i * in_);
    }
  }
  return rows;
}

int64_t Linear::bytes() const {
  return static_cast<int64_t>(weight_.nbytes() + (bias_.defined() ? bias_.nbytes() : 0));
}

}  // namespace quire::kernels

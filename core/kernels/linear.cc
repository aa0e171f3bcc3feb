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

struct PackedLayer {
  const at::Tensor& weight;
  const at::Tensor& bias;
  int64_t in;
  int64_t out;
};

void Run(const PackedLayer& layer, const at::Tensor& x, bf16::Store store,
         at::Tensor& y) {
  const bf16::LinearArgs args = {
      .x = Bits(x),
      .packed = Bits(layer.weight),
      .bias = layer.bias.defined() ? layer.bias.const_data_ptr<float>() : nullptr,
      .y = y.data_ptr(),
      .rows = x.size(0),
      .in = layer.in,
      .out = layer.out,
      .store = store};
  at::parallel_for(0, Panels(layer.out), 1, [&](int64_t first, int64_t last) {
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
  Run({weight_, bias_, in_, out_}, x, bf16::Store::kBFloat16, y);
  return y;
}

at::Tensor Linear::ApplyF32(const at::Tensor& x) const {
  if (!packed_) return at::linear(x, weight_, bias_);
  at::Tensor y = at::empty({x.size(0), out_}, at::kFloat);
  Run({weight_, bias_, in_, out_}, x, bf16::Store::kFloat32, y);
  return y;
}

void Linear::AddTo(const at::Tensor& x, at::Tensor& sum) const {
  QUIRE_CHECK(sum.scalar_type() == at::kFloat && sum.size(0) == x.size(0) &&
              sum.size(1) == out_);
  if (!packed_) {
    sum.add_(at::linear(x, weight_, bias_));
    return;
  }
  Run({weight_, bias_, in_, out_}, x, bf16::Store::kAddFloat32, sum);
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

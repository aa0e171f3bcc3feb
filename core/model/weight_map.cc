#include "core/model/weight_map.h"

#include <cmath>

#include "ATen/ops/addmm.h"
#include "ATen/ops/cat.h"
#include "ATen/ops/empty.h"
#include "ATen/ops/empty_like.h"
#include "ATen/ops/sum.h"
#include "ATen/ops/zeros.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/weights/gguf_rows.h"

namespace quire {
namespace {

at::Tensor ToTensor(const TensorView& view) {
  at::Tensor t = at::empty(view.shape, at::kFloat);
  DequantizeTo(view, absl::MakeSpan(t.data_ptr<float>(), static_cast<size_t>(t.numel())));
  return t;
}

bool IsQueryOrKey(const std::string& name) {
  return absl::StrContains(name, ".q_proj.") || absl::StrContains(name, ".k_proj.");
}

// Brings the rows of a GGUF file's q or k weight or bias into Hugging Face's order.
at::Tensor Unpermute(const at::Tensor& t, int64_t head_dim) {
  at::Tensor out = at::empty_like(t);
  const int64_t width = t.numel() / t.size(0);
  for (int64_t row = 0; row < t.size(0); ++row) {
    const float* const from =
        t.const_data_ptr<float>() + UnpermuteGgufRow(row, head_dim) * width;
    std::copy(from, from + width, out.data_ptr<float>() + row * width);
  }
  return out;
}

}  // namespace

absl::StatusOr<at::Tensor> WeightMap::Read(const std::string& name,
                                           const std::vector<int64_t>& shape) const {
  QUIRE_ASSIGN_OR_RETURN(const TensorView view, source_.Get(name, shape));
  at::Tensor t = ToTensor(view);
  if (source_.QkRowsInterleaved() && IsQueryOrKey(name))
    t = Unpermute(t, config_.head_dim);
  if (const LoraUpdate* lora = source_.Lora(name); lora != nullptr) {
    t.addmm_(ToTensor(lora->b), ToTensor(lora->a), 1.0, lora->scale);
  }
  // A sum is not finite if any of the values is not.
  if (!std::isfinite(at::sum(t, at::kDouble).item<double>())) {
    return absl::InvalidArgumentError(
        absl::StrCat("tensor ", name, " has NaN or infinite values"));
  }
  return t;
}

absl::StatusOr<at::Tensor> WeightMap::Vector(const std::string& name,
                                             int64_t size) const {
  return Read(name, {size});
}

absl::StatusOr<at::Tensor> WeightMap::Matrix(const std::string& name, int64_t rows,
                                             int64_t columns) const {
  return Read(name, {rows, columns});
}

absl::StatusOr<WeightMap::Joined> WeightMap::Join(const std::vector<Part>& parts,
                                                  int64_t columns) const {
  std::vector<at::Tensor> weights;
  std::vector<at::Tensor> biases;
  bool any_bias = false;
  for (const Part& part : parts) {
    QUIRE_ASSIGN_OR_RETURN(at::Tensor weight,
                           Matrix(part.module + ".weight", part.rows, columns));
    weights.push_back(std::move(weight));
    at::Tensor bias;
    if (part.bias) {
      QUIRE_ASSIGN_OR_RETURN(bias, Vector(part.module + ".bias", part.rows));
    } else {
      bias = at::zeros({part.rows}, at::kFloat);
    }
    biases.push_back(std::move(bias));
    any_bias |= part.bias;
  }
  return Joined{weights.size() == 1 ? weights[0] : at::cat(weights),
                any_bias ? at::cat(biases) : at::Tensor()};
}

absl::StatusOr<kernels::Linear> WeightMap::Linear(const std::vector<Part>& parts,
                                                  int64_t columns,
                                                  at::ScalarType compute) const {
  QUIRE_ASSIGN_OR_RETURN(const Joined joined, Join(parts, columns));
  return kernels::Linear::Pack(joined.weight, joined.bias, compute);
}

}  // namespace quire

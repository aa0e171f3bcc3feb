#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/weights/weight_source.h"

namespace quire {

// The weights of a model, but for one value of one tensor.
class PoisonedWeights final : public WeightSource {
 public:
  PoisonedWeights(std::shared_ptr<const WeightSource> source, std::string tensor,
                  float poison)
      : source_(std::move(source)), tensor_(std::move(tensor)), poison_(poison) {}

  bool Has(std::string_view name) const override { return source_->Has(name); }
  absl::StatusOr<TensorView> Get(std::string_view name,
                                 absl::Span<const int64_t> shape) const override {
    absl::StatusOr<TensorView> view = source_->Get(name, shape);
    if (!view.ok() || name != tensor_) return view;
    values_.resize(static_cast<size_t>(view->num_elements()));
    DequantizeTo(*view, absl::MakeSpan(values_));
    values_[values_.size() / 2] = poison_;
    view->dtype = DType::kF32;
    view->data = {reinterpret_cast<const std::byte*>(values_.data()),
                  values_.size() * sizeof(float)};
    return view;
  }
  const LoraUpdate* Lora(std::string_view name) const override {
    return source_->Lora(name);
  }
  bool QkRowsInterleaved() const override { return source_->QkRowsInterleaved(); }
  std::vector<std::string> names() const override { return source_->names(); }
  void Release() const override { source_->Release(); }

 private:
  const std::shared_ptr<const WeightSource> source_;
  const std::string tensor_;
  const float poison_;
  mutable std::vector<float> values_;
};

}  // namespace quire

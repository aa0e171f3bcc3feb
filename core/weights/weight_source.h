#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "core/weights/tensor_view.h"

namespace quire {

// The low-rank update of one linear layer: W += scale * B A (Hu et al., arXiv
// 2106.09685).
struct LoraUpdate {
  TensorView a;     // [rank, in]
  TensorView b;     // [out, rank]
  float scale = 0;  // alpha / rank, or alpha / sqrt(rank) for rank-stabilised LoRA
};

// The weights of one model under Hugging Face names
// ("model.layers.0.self_attn.q_proj.weight"), whatever file they come from. Immutable;
// safe to use from several threads. Views live as long as the source.
class WeightSource {
 public:
  virtual ~WeightSource() = default;

  virtual bool Has(std::string_view name) const = 0;
  // kNotFound names the tensor; kInvalidArgument reports got and wanted shapes.
  virtual absl::StatusOr<TensorView> Get(std::string_view name,
                                         absl::Span<const int64_t> shape) const = 0;
  // The adapter's update of that weight, or null.
  virtual const LoraUpdate* Lora(std::string_view name) const = 0;
  // GGUF files of Llama models keep q and k with the halves of each head interleaved
  // (pairs 2i, 2i+1 instead of i, i + head_dim/2). True: the reader of q_proj/k_proj has
  // to undo it, see UnpermuteGgufRow (core/weights/gguf_rows.h). (Views cannot reorder
  // rows.)
  virtual bool QkRowsInterleaved() const = 0;
  virtual std::vector<std::string> names() const = 0;
  // The mapped pages are no longer needed (everything was copied).
  virtual void Release() const = 0;
};

// Values of a view as float32, dequantised. out.size() == view.num_elements().
void DequantizeTo(const TensorView& view, absl::Span<float> out);

}  // namespace quire

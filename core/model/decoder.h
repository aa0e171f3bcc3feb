#pragma once

#include <memory>
#include <vector>

#include "ATen/core/Tensor.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "core/attention/step_attention.h"
#include "core/config/model_config.h"
#include "core/kernels/kernels.h"
#include "core/model/kv_cache.h"
#include "core/weights/weight_source.h"

namespace quire {

// A decoder of the Llama family: embedding, layers of attention and gated MLP with
// RMSNorm before each, a final norm and a linear head. Architecture: Touvron et al.,
// arXiv 2302.13971, with the variations that ModelConfig names. Immutable once loaded;
// not thread-safe, since ATen's intra-op threads serve one caller at a time.
class Decoder {
 public:
  // compute: kFloat, or kBFloat16 where kernels::HasFastBFloat16(). Errors are
  // WeightMap's.
  static absl::StatusOr<std::unique_ptr<Decoder>> Load(const ModelConfig& config,
                                                       const WeightSource& source,
                                                       at::ScalarType compute);

  // Runs the rows of all sequences, whose tokens lie one after the other in `tokens`,
  // through every layer; their keys and values are in the cache afterwards. What their
  // attention took is added to each sequence's stats. -> [T, E] float32, before the final
  // norm.
  at::Tensor Forward(absl::Span<const TokenId> tokens,
                     absl::Span<SequenceAttention> sequences, KvCache& cache) const;

  // hidden [R, E], rows of Forward's result -> [R, vocab] float32.
  at::Tensor Logits(const at::Tensor& hidden) const;

  const ModelConfig& config() const { return config_; }
  int64_t weight_bytes() const;

 private:
  struct Layer {
    at::Tensor attention_norm, mlp_norm;  // [E] float32
    at::Tensor q_norm, k_norm;            // [D] float32, or undefined
    kernels::Linear qkv, output, gate_up, down;
  };

  Decoder(const ModelConfig& config, at::ScalarType compute);
  absl::Status LoadLayers(const WeightSource& source);
  kernels::RopeTable Rope(absl::Span<const kernels::SequenceRows> sequences,
                          int64_t rows) const;
  void RunLayer(int32_t layer, const kernels::RopeTable& rope,
                absl::Span<const kernels::SequenceRows> rows,
                absl::Span<SequenceAttention> sequences, KvCache& cache,
                at::Tensor& residual) const;

  const ModelConfig config_;
  const at::ScalarType compute_;
  std::vector<float> inverse_frequencies_;  // [D / 2]
  kernels::Linear embedding_;  // [vocab, E]; also the head when they are tied
  kernels::Linear head_;
  at::Tensor final_norm_;
  std::vector<Layer> layers_;
};

}  // namespace quire

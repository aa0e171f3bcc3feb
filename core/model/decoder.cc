#include "core/model/decoder.h"

#include <cmath>

#include "ATen/ops/empty.h"
#include "core/base/status_macros.h"
#include "core/model/layer_parts.h"
#include "core/model/weight_map.h"

namespace quire {
namespace {

kernels::HeadShape Shape(const ModelConfig& c) {
  return {c.num_heads, c.num_kv_heads, c.head_dim};
}

}  // namespace

Decoder::Decoder(const ModelConfig& config, at::ScalarType compute)
    : config_(config), compute_(compute) {
  for (const double f :
       RopeInverseFrequencies(config.rope, config.head_dim, config.max_positions)) {
    inverse_frequencies_.push_back(static_cast<float>(f));
  }
}

absl::StatusOr<std::unique_ptr<Decoder>> Decoder::Load(const ModelConfig& config,
                                                       const WeightSource& source,
                                                       at::ScalarType compute) {
  std::unique_ptr<Decoder> decoder(new Decoder(config, compute));
  const WeightMap weights(source, config);
  QUIRE_ASSIGN_OR_RETURN(decoder->embedding_,
                         weights.Linear({{"model.embed_tokens", config.vocab_size}},
                                        config.hidden_size, compute));
  if (!config.tie_embeddings) {
    QUIRE_ASSIGN_OR_RETURN(
        decoder->head_,
        weights.Linear({{"lm_head", config.vocab_size}}, config.hidden_size, compute));
  }
  QUIRE_ASSIGN_OR_RETURN(decoder->final_norm_,
                         weights.Vector("model.norm.weight", config.hidden_size));
  QUIRE_RETURN_IF_ERROR(decoder->LoadLayers(source));
  return decoder;
}

absl::Status Decoder::LoadLayers(const WeightSource& source) {
  const WeightMap weights(source, config_);
  const ModelConfig& c = config_;
  for (int32_t i = 0; i < c.num_layers; ++i) {
    const LayerParts parts = PartsOf(c, i);
    Layer l;
    QUIRE_ASSIGN_OR_RETURN(l.attention_norm,
                           weights.Vector(parts.attention_norm, c.hidden_size));
    QUIRE_ASSIGN_OR_RETURN(l.mlp_norm, weights.Vector(parts.mlp_norm, c.hidden_size));
    if (c.qk_norm) {
      QUIRE_ASSIGN_OR_RETURN(l.q_norm, weights.Vector(parts.q_norm, c.head_dim));
      QUIRE_ASSIGN_OR_RETURN(l.k_norm, weights.Vector(parts.k_norm, c.head_dim));
    }
    QUIRE_ASSIGN_OR_RETURN(l.qkv, weights.Linear(parts.qkv, c.hidden_size, compute_));
    QUIRE_ASSIGN_OR_RETURN(
        l.output,
        weights.Linear(parts.output, int64_t{c.num_heads} * c.head_dim, compute_));
    QUIRE_ASSIGN_OR_RETURN(l.gate_up,
                           weights.Linear(parts.gate_up, c.hidden_size, compute_));
    QUIRE_ASSIGN_OR_RETURN(l.down,
                           weights.Linear(parts.down, c.intermediate_size, compute_));
    layers_.push_back(std::move(l));
  }
  return absl::OkStatus();
}

kernels::RopeTable Decoder::Rope(absl::Span<const kernels::SequenceRows> sequences,
                                 int64_t rows) const {
  const int64_t half = config_.head_dim / 2;
  kernels::RopeTable table = {at::empty({rows, half}, at::kFloat),
                              at::empty({rows, half}, at::kFloat)};
  const double factor = config_.rope.attention_factor;
  for (const kernels::SequenceRows& s : sequences) {
    for (int64_t i = 0; i < s.rows; ++i) {
      const auto position = static_cast<float>(s.begin + i);
      const int64_t at = (s.first_row + i) * half;
      for (int64_t j = 0; j < half; ++j) {
        // The angle is rounded to float32 as transformers rounds it.
        const double angle = position * inverse_frequencies_[j];
        table.cos.data_ptr<float>()[at + j] =
            static_cast<float>(std::cos(angle) * factor);
        table.sin.data_ptr<float>()[at + j] =
            static_cast<float>(std::sin(angle) * factor);
      }
    }
  }
  return table;
}

void Decoder::RunLayer(int32_t index, const kernels::RopeTable& rope,
                       absl::Span<const kernels::SequenceRows> rows,
                       absl::Span<SequenceAttention> sequences, KvCache& cache,
                       at::Tensor& residual) const {
  const Layer& layer = layers_[index];
  kernels::PagedKv& kv = cache.layer(index);
  const float eps = config_.rms_norm_eps;
  const at::Tensor normed =
      kernels::RmsNorm(residual, layer.attention_norm, eps, compute_);
  const at::Tensor q =
      kernels::RopeAndStore(layer.qkv.Apply(normed), Shape(config_), rope, layer.q_norm,
                            layer.k_norm, eps, rows, kv);
  const LayerAttention attention = {
      .layer = index,
      .num_layers = config_.num_layers,
      .shape = Shape(config_),
      .scale = 1.0f / std::sqrt(static_cast<float>(config_.head_dim))};
  layer.output.AddTo(Attend(q, kv, cache.index(index), attention, sequences), residual);
  const at::Tensor mlp_in = kernels::RmsNorm(residual, layer.mlp_norm, eps, compute_);
  layer.down.AddTo(kernels::SiluMul(layer.gate_up.Apply(mlp_in)), residual);
}

at::Tensor Decoder::Forward(absl::Span<const TokenId> tokens,
                            absl::Span<SequenceAttention> sequences,
                            KvCache& cache) const {
  at::Tensor residual = embedding_.Rows(tokens);  // [T, E]
  std::vector<kernels::SequenceRows> rows;
  for (const SequenceAttention& s : sequences) rows.push_back(s.rows);
  const kernels::RopeTable rope = Rope(rows, residual.size(0));
  for (int32_t i = 0; i < config_.num_layers; ++i) {
    RunLayer(i, rope, rows, sequences, cache, residual);
  }
  return residual;
}

at::Tensor Decoder::Logits(const at::Tensor& hidden) const {
  const at::Tensor normed =
      kernels::RmsNorm(hidden, final_norm_, config_.rms_norm_eps, compute_);
  return (config_.tie_embeddings ? embedding_ : head_).ApplyF32(normed);
}

int64_t Decoder::weight_bytes() const {
  return config_.tie_embeddings
             ? WeightBytes<kernels::Linear>({&embedding_}, final_norm_, layers_)
             : WeightBytes<kernels::Linear>({&embedding_, &head_}, final_norm_, layers_);
}

}  // namespace quire

#include "core/model/cuda_weights.h"

#include <utility>

#include "core/base/status_macros.h"
#include "core/model/layer_parts.h"
#include "core/model/weight_map.h"

namespace quire {
namespace {

absl::StatusOr<CudaLinear> Upload(const WeightMap& weights,
                                  const std::vector<WeightMap::Part>& parts,
                                  int64_t columns, at::Device device) {
  QUIRE_ASSIGN_OR_RETURN(const WeightMap::Joined joined, weights.Join(parts, columns));
  // Narrowed on the host: half as much to send.
  const auto send = [&](const at::Tensor& t) {
    return t.defined() ? t.to(at::kBFloat16).to(device) : at::Tensor();
  };
  return CudaLinear{send(joined.weight), send(joined.bias)};
}

absl::StatusOr<CudaWeights::Layer> LoadLayer(const WeightMap& weights,
                                             const ModelConfig& c, int32_t index,
                                             at::Device device) {
  const LayerParts parts = PartsOf(c, index);
  CudaWeights::Layer l;
  QUIRE_ASSIGN_OR_RETURN(l.attention_norm,
                         weights.Vector(parts.attention_norm, c.hidden_size));
  QUIRE_ASSIGN_OR_RETURN(l.mlp_norm, weights.Vector(parts.mlp_norm, c.hidden_size));
  if (c.qk_norm) {
    QUIRE_ASSIGN_OR_RETURN(l.q_norm, weights.Vector(parts.q_norm, c.head_dim));
    QUIRE_ASSIGN_OR_RETURN(l.k_norm, weights.Vector(parts.k_norm, c.head_dim));
    l.q_norm = l.q_norm.to(device);
    l.k_norm = l.k_norm.to(device);
  }
  l.attention_norm = l.attention_norm.to(device);
  l.mlp_norm = l.mlp_norm.to(device);
  QUIRE_ASSIGN_OR_RETURN(l.qkv, Upload(weights, parts.qkv, c.hidden_size, device));
  QUIRE_ASSIGN_OR_RETURN(
      l.output, Upload(weights, parts.output, int64_t{c.num_heads} * c.head_dim, device));
  QUIRE_ASSIGN_OR_RETURN(l.gate_up,
                         Upload(weights, parts.gate_up, c.hidden_size, device));
  QUIRE_ASSIGN_OR_RETURN(l.down,
                         Upload(weights, parts.down, c.intermediate_size, device));
  return l;
}

}  // namespace

int64_t CudaWeights::bytes() const {
  return head.weight.defined()
             ? WeightBytes<CudaLinear>({&embedding, &head}, final_norm, layers)
             : WeightBytes<CudaLinear>({&embedding}, final_norm, layers);
}

absl::StatusOr<CudaWeights> LoadCudaWeights(const ModelConfig& config,
                                            const WeightSource& source,
                                            at::Device device) {
  const WeightMap weights(source, config);
  CudaWeights to;
  QUIRE_ASSIGN_OR_RETURN(to.embedding,
                         Upload(weights, {{"model.embed_tokens", config.vocab_size}},
                                config.hidden_size, device));
  if (!config.tie_embeddings) {
    QUIRE_ASSIGN_OR_RETURN(to.head, Upload(weights, {{"lm_head", config.vocab_size}},
                                           config.hidden_size, device));
  }
  QUIRE_ASSIGN_OR_RETURN(to.final_norm,
                         weights.Vector("model.norm.weight", config.hidden_size));
  to.final_norm = to.final_norm.to(device);
  for (int32_t i = 0; i < config.num_layers; ++i) {
    QUIRE_ASSIGN_OR_RETURN(CudaWeights::Layer layer,
                           LoadLayer(weights, config, i, device));
    to.layers.push_back(std::move(layer));
  }
  return to;
}

}  // namespace quire

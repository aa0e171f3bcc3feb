#include "tests/benchmarks/cuda_step/shapes.h"

#include <algorithm>

#include "ATen/ops/empty.h"
#include "ATen/ops/ones.h"
#include "core/base/check.h"

namespace quire::cuda_step {
namespace {

constexpr double kDeviation = 0.02;
constexpr int32_t kMaxPositions = 1 << 20;

struct NamedShape {
  const char* name;
  int32_t layers, hidden, intermediate, heads, kv_heads, dim, vocab;
  bool tied;
  double theta;
};
constexpr NamedShape kShapes[] = {
    {"llama2-7b", 32, 4096, 11008, 32, 32, 128, 32000, false, 1e4},
    {"llama3.1-8b", 32, 4096, 14336, 32, 8, 128, 128256, false, 5e5},
    {"quire-135m", 30, 576, 1536, 9, 3, 64, 49152, true, 1e5},
};

}  // namespace

std::vector<std::string> ShapeNames() {
  std::vector<std::string> names;
  for (const NamedShape& shape : kShapes) names.emplace_back(shape.name);
  return names;
}

ModelConfig ShapeOf(const std::string& name) {
  const auto* const s =
      std::find_if(std::begin(kShapes), std::end(kShapes),
                   [&](const NamedShape& shape) { return name == shape.name; });
  QUIRE_CHECK(s != std::end(kShapes));
  ModelConfig config;
  config.num_layers = s->layers;
  config.hidden_size = s->hidden;
  config.intermediate_size = s->intermediate;
  config.num_heads = s->heads;
  config.num_kv_heads = s->kv_heads;
  config.head_dim = s->dim;
  config.vocab_size = s->vocab;
  config.max_positions = kMaxPositions;
  config.rms_norm_eps = 1e-5f;
  config.rope.theta = s->theta;
  config.tie_embeddings = s->tied;
  return config;
}

CudaWeights RandomWeights(const ModelConfig& c, at::Device device) {
  const auto options = at::TensorOptions(at::kBFloat16).device(device);
  const auto linear = [&](int64_t out, int64_t in) {
    return CudaLinear{at::empty({out, in}, options).normal_(0, kDeviation), {}};
  };
  const auto norm = [&] { return at::ones({c.hidden_size}, options.dtype(at::kFloat)); };
  const int64_t q = int64_t{c.num_heads} * c.head_dim;
  const int64_t kv = int64_t{c.num_kv_heads} * c.head_dim;
  CudaWeights weights;
  weights.embedding = linear(c.vocab_size, c.hidden_size);
  if (!c.tie_embeddings) weights.head = linear(c.vocab_size, c.hidden_size);
  weights.final_norm = norm();
  for (int32_t i = 0; i < c.num_layers; ++i) {
    weights.layers.push_back({.attention_norm = norm(),
                              .mlp_norm = norm(),
                              .qkv = linear(q + 2 * kv, c.hidden_size),
                              .output = linear(c.hidden_size, q),
                              .gate_up = linear(2 * c.intermediate_size, c.hidden_size),
                              .down = linear(c.hidden_size, c.intermediate_size)});
  }
  return weights;
}

void FillRandomly(const ModelConfig& config, const CudaKvCache& cache) {
  for (int32_t i = 0; i < config.num_layers; ++i) {
    for (at::Tensor side : {cache.layer(i).k, cache.layer(i).v}) side.normal_();
  }
}

}  // namespace quire::cuda_step

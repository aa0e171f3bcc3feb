#include "tests/benchmarks/cuda_step/linears.h"

#include <algorithm>
#include <vector>

#include "ATen/ops/linear.h"
#include "ATen/ops/randn.h"
#include "tests/benchmarks/cuda_step/shapes.h"

namespace quire::cuda_step {
namespace {

constexpr int32_t kMaxLayers = 8;  // their weights are more than a cache holds

}  // namespace

void MeasureLinears(const std::string& model, int64_t rows, at::Device device,
                    cuda_attention::Timer& timer, Report& report) {
  ModelConfig config = ShapeOf(model);
  config.num_layers = std::min(config.num_layers, kMaxLayers);
  const CudaWeights weights = RandomWeights(config, device);
  const auto measure = [&](const char* name, const auto& of) {
    const CudaLinear& first = of(weights.layers[0]);
    const at::Tensor x = at::randn({rows, first.weight.size(1)}, first.weight.options());
    Row row = {.model = model,
               .what = name,
               .batch = rows,
               .weight_bytes = static_cast<double>(first.bytes())};
    const auto layer = [&](int i) -> const CudaLinear& {
      return of(weights.layers[static_cast<size_t>(i % config.num_layers)]);
    };
    row.mode = "cublas";
    row.median_ms =
        1e-3 * timer.MedianMicroseconds([&](int i) { at::linear(x, layer(i).weight); });
    report.Add(row);
    row.mode = "own";
    row.median_ms = 1e-3 * timer.MedianMicroseconds([&](int i) { layer(i).Apply(x); });
    report.Add(row);
  };
  measure("qkv", [](const CudaWeights::Layer& l) -> const CudaLinear& { return l.qkv; });
  measure("output",
          [](const CudaWeights::Layer& l) -> const CudaLinear& { return l.output; });
  measure("gate_up",
          [](const CudaWeights::Layer& l) -> const CudaLinear& { return l.gate_up; });
  measure("down",
          [](const CudaWeights::Layer& l) -> const CudaLinear& { return l.down; });
}

}  // namespace quire::cuda_step

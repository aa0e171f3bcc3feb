#pragma once

#include <string>
#include <vector>

#include "ATen/core/Tensor.h"
#include "absl/status/statusor.h"
#include "core/config/model_config.h"
#include "core/kernels/kernels.h"
#include "core/weights/weight_source.h"

namespace quire {

// Reads a model's tensors as float32, with the adapter merged and the file's
// peculiarities undone. Not thread-safe; the source must outlive it.
class WeightMap {
 public:
  WeightMap(const WeightSource& source, const ModelConfig& config)
      : source_(source), config_(config) {}

  // kNotFound / kInvalidArgument (shape; NaN or infinite values) name the tensor.
  absl::StatusOr<at::Tensor> Vector(const std::string& name, int64_t size) const;
  absl::StatusOr<at::Tensor> Matrix(const std::string& name, int64_t rows,
                                    int64_t columns) const;

  struct Part {
    std::string
        module;  // "model.layers.0.self_attn.q_proj"; its weight is [rows, columns]
    int64_t rows = 0;
    bool bias = false;
  };
  struct Joined {
    at::Tensor weight;  // [rows of all parts, columns] float32
    at::Tensor bias;    // [rows of all parts] float32, or undefined
  };
  // The parts' rows one after the other.
  absl::StatusOr<Joined> Join(const std::vector<Part>& parts, int64_t columns) const;
  // The same as a layer for this machine's CPU.
  absl::StatusOr<kernels::Linear> Linear(const std::vector<Part>& parts, int64_t columns,
                                         at::ScalarType compute) const;

 private:
  absl::StatusOr<at::Tensor> Read(const std::string& name,
                                  const std::vector<int64_t>& shape) const;

  const WeightSource& source_;
  const ModelConfig& config_;
};

}  // namespace quire

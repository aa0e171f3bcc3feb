#pragma once

#include <functional>
#include <map>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "core/config/model_config.h"
#include "core/weights/tensor_table.h"
#include "core/weights/weight_source.h"

namespace quire {

// Updates by the name of the weight that they change.
using LoraUpdates = std::map<std::string, LoraUpdate, std::less<>>;

// Reads a PEFT LoRA adapter: adapter_config.json and the tensors of
// adapter_model.safetensors, whose names and shapes must fit the model. Each module that
// target_modules names has to be there in every layer (unless layers_to_transform picks
// some). Pure; views are the table's. kInvalidArgument names the field or tensor, what is
// wanted and what is there; kUnimplemented names what is not supported: DoRA, trained
// biases or whole modules, ranks that differ.
absl::StatusOr<LoraUpdates> ParseLora(std::string_view adapter_config_json,
                                      const TensorTable& tensors,
                                      const ModelConfig& model);

}  // namespace quire

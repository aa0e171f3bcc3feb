#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/base/mapped_file.h"
#include "core/config/model_config.h"
#include "core/weights/lora.h"
#include "core/weights/tensor_table.h"
#include "core/weights/weight_source.h"

namespace quire {

// Mapped files and the tensors found in them. Movable plain value.
struct WeightFiles {
  std::vector<MappedFile> files;  // own the bytes that the views below borrow
  TensorTable tensors;
  LoraUpdates lora;
  bool qk_rows_interleaved = false;

  int64_t total_bytes() const;
};

std::shared_ptr<const WeightSource> MakeWeightSource(WeightFiles files);

// One file, by its ending: .safetensors or .gguf. Errors of the readers, with the path in
// front; kInvalidArgument also if a GGUF's architecture is not the config's.
absl::StatusOr<WeightFiles> OpenWeightFile(const std::string& path,
                                           const ModelConfig& config);

// model.safetensors.index.json and the shards beside it. kNotFound names a missing shard.
absl::StatusOr<WeightFiles> OpenSafetensorsShards(const std::string& index_path);

// Adds adapter_config.json and adapter_model.safetensors of that folder.
absl::Status AddAdapter(const std::string& folder, const ModelConfig& config,
                        WeightFiles& files);

// A text file of at most max_bytes. kNotFound, kInvalidArgument name the path.
absl::StatusOr<std::string> ReadTextFile(const std::string& path, int64_t max_bytes);

// The same status with "context: " in front of its message; OK stays OK.
absl::Status WithContext(const absl::Status& status, absl::string_view context);

}  // namespace quire

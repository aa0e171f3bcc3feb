#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace quire {

// base.json: the base weights are a file that deploy/setup.sh downloads and checks.
struct BaseReference {
  std::string file;    // plain name, ends in .gguf or .safetensors
  std::string sha256;  // 64 hexadecimal digits; setup checks it, a start does not
  int64_t bytes = 0;   // 0: not stated
};

// kInvalidArgument names the field that is missing, unknown or malformed.
absl::StatusOr<BaseReference> ParseBaseReference(std::string_view json);

// The path of that file: in `folder`, else in `base_dir` (may be empty). kNotFound names
// the file and says to run deploy/setup.sh; kInvalidArgument: its size is not the stated
// one.
absl::StatusOr<std::string> FindBaseFile(const BaseReference& base,
                                         const std::string& folder,
                                         const std::string& base_dir);

}  // namespace quire

#pragma once

#include <cstddef>
#include <map>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "core/weights/tensor_table.h"

namespace quire {

// Reads the header of a safetensors file (https://github.com/huggingface/safetensors,
// "Format"). Pure; views borrow `bytes`. As the format says, tensors cover the data
// without holes and without overlap. F32, F16 and BF16 tensors are readable; the format's
// other types may be there and are refused when asked for. kInvalidArgument names what is
// malformed, the limit and the value; kUnimplemented names a type that the format did not
// have when this was written.
absl::StatusOr<TensorTable> ParseSafetensors(absl::Span<const std::byte> bytes);

// Reads a model.safetensors.index.json: tensor name -> file name of its shard. File names
// are plain names that end in .safetensors, never paths. kInvalidArgument names what is
// malformed.
absl::StatusOr<std::map<std::string, std::string>> ParseSafetensorsIndex(
    std::string_view json);

// True for a name that stays inside its folder: no separator, not hidden, not empty, no
// control characters, at most 255 bytes.
bool IsPlainFileName(std::string_view name);

}  // namespace quire

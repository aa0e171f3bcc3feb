#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "core/weights/tensor_table.h"

namespace quire {

// A GGUF file of version 2 or 3
// (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md).
struct GgufContents {
  std::string architecture;  // general.architecture: "llama", "qwen2", "qwen3"
  // Under Hugging Face names and shapes. Rows of q and k are as the file has them, see
  // core/weights/gguf_rows.h.
  TensorTable tensors;
};

// Pure; tensors borrow `bytes`. Metadata is checked and skipped but for the architecture
// and the alignment: config.json and tokenizer.json say the rest. kInvalidArgument names
// what is malformed; kUnimplemented names the version, or the tensor and its type
// ("Q4_K").
absl::StatusOr<GgufContents> ParseGguf(absl::Span<const std::byte> bytes);

// "blk.3.attn_q.weight" -> "model.layers.3.self_attn.q_proj.weight"; a name that has no
// counterpart stays as it is.
std::string HuggingFaceName(std::string_view gguf_name);

}  // namespace quire

#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "absl/types/span.h"

namespace quire {

// How numbers are stored in a weight file. The Q types are GGUF's blocks of 32 values.
enum class DType : uint8_t { kF32, kF16, kBF16, kQ8_0, kQ4_0, kQ4_1 };

std::string_view DTypeName(DType dtype);

// Numbers are stored in blocks of `values` numbers and `bytes` bytes: {1, 2} for BF16,
// {32, 20} for Q4_1 (two half floats and 16 bytes of nibbles).
struct BlockLayout {
  int64_t values = 1;
  int64_t bytes = 0;
};
BlockLayout LayoutOf(DType dtype);

// Non-owning view of one tensor inside a mapped file. Row-major, outermost dimension
// first (GGUF's own order is reversed by the reader).
struct TensorView {
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
  absl::Span<const std::byte> data;  // may be unaligned

  int64_t num_elements() const;
};

}  // namespace quire

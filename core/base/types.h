#pragma once

#include <cstdint>

namespace quire {

using TokenId = int32_t;
using Position = int32_t;            // index of a token within its sequence
enum class RequestId : uint64_t {};  // distinct types: cannot be swapped by accident
enum class BlockId : int32_t {};
inline constexpr BlockId kNoBlock{-1};

// Bytes [begin, end) of a text.
struct ByteSpan {
  int64_t begin = 0;
  int64_t end = 0;
  friend bool operator==(const ByteSpan&, const ByteSpan&) = default;
};

}  // namespace quire

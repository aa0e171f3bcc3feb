#pragma once

#include <cstdint>
#include <vector>

#include "core/base/types.h"

namespace quire {

// The tokens whose attention is looked at closely, for importance: a function of the
// position alone, so that the size of a prompt's chunks changes nothing.
inline constexpr Position kProbeStride = 32;

constexpr bool IsProbed(Position position) {
  return position % kProbeStride == kProbeStride - 1;
}

// Which of a chunk's rows [0, rows), the first at position `begin`, are probed;
// ascending. The last row of a prompt is, wherever it stands: often it is where the
// question is.
std::vector<int64_t> ProbedRows(Position begin, int64_t rows, bool ends_prompt);

}  // namespace quire

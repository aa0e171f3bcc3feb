#include "core/dga/probe_positions.h"

namespace quire {

std::vector<int64_t> ProbedRows(Position begin, int64_t rows, bool ends_prompt) {
  std::vector<int64_t> probed;
  for (int64_t row = kProbeStride - 1 - begin % kProbeStride; row < rows;
       row += kProbeStride) {
    probed.push_back(row);
  }
  if (ends_prompt && rows > 0 && (probed.empty() || probed.back() != rows - 1)) {
    probed.push_back(rows - 1);
  }
  return probed;
}

}  // namespace quire

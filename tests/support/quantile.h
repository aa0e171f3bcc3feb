#pragma once

#include <algorithm>
#include <cstddef>
#include <vector>

namespace quire {

// The value of which a share q in [0, 1] of the others is smaller; 0 of nothing.
inline double Quantile(std::vector<double> values, double q) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  return values[static_cast<size_t>(q * static_cast<double>(values.size() - 1) + 0.5)];
}

}  // namespace quire

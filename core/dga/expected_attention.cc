#include "core/dga/expected_attention.h"

#include <algorithm>
#include <cmath>

namespace quire {
namespace {

constexpr double kCertainColumns = kSinkTokens + kWindowTokens;
constexpr double kDrawnColumns = 268;  // at kEps
constexpr double kEps = 0.04;
constexpr double kEpsPower = 1.4;

bool Refines(const AttentionOptions& options) {
  return (options.mode == AttentionMode::kAuto ||
          options.mode == AttentionMode::kRefined) &&
         options.eps > 0;
}

double FaithfulColumns(const FaithfulOptions& faithful, double visible) {
  const double focal =
      std::min(visible, std::max<double>(faithful.min_focal_tokens,
                                         visible * double{faithful.focal_share}));
  return focal + (visible - focal) / faithful.group_tokens;
}

}  // namespace

double RefinedColumns(float eps) {
  return kCertainColumns + kDrawnColumns * std::pow(kEps / double{eps}, kEpsPower);
}

ExpectedColumns ExpectColumns(const AttentionOptions& options, int64_t begin,
                              int64_t rows) {
  const bool refines = Refines(options);
  const double refined = refines ? RefinedColumns(options.eps) : 0;
  ExpectedColumns sum;
  for (int64_t seen = begin + 1; seen <= begin + rows; ++seen) {
    const auto visible = static_cast<double>(seen);
    if (options.mode == AttentionMode::kFaithful) {
      sum.read += FaithfulColumns(options.faithful, visible);
    } else if (refines && seen >= options.SparseFrom()) {
      sum.read += std::min(visible, refined);
      sum.scanned += std::max(0.0, visible - kCertainColumns);
    } else {
      sum.read += visible;
    }
  }
  return sum;
}

}  // namespace quire

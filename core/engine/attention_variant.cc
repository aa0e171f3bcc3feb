#include "core/engine/attention_variant.h"

#include <cstring>

namespace quire {
namespace {

constexpr uint64_t kDense = 0;

}  // namespace

// Exact, no hash: 32 bits of eps, 30 of the least sparse row, one each of the two
// choices; never 0, since eps is not.
std::optional<uint64_t> AttentionVariant(const AttentionOptions& options,
                                         int64_t page_end) {
  switch (options.mode) {
    case AttentionMode::kFaithful:
      return std::nullopt;
    case AttentionMode::kDense:
      return kDense;
    case AttentionMode::kAuto:
    case AttentionMode::kRefined:
      break;
  }
  if (options.eps == 0 || page_end < options.SparseFrom()) return kDense;
  uint32_t eps = 0;
  std::memcpy(&eps, &options.eps, sizeof eps);
  const auto sparse_from = static_cast<uint64_t>(options.SparseFrom()) & 0x3fffffff;
  return uint64_t{eps} << 32 | sparse_from << 2 |
         (options.tail == TailEstimate::kGroupMeans ? 2u : 0u) |
         (options.index == KeyIndex::kPageMeans ? 1u : 0u);
}

}  // namespace quire

#include "core/runner/step_checks.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"

namespace quire {

absl::Status CheckItem(const StepItem& item, const ModelConfig& c,
                       const KvGeometry& geometry) {
  if (item.tokens.empty()) return absl::InvalidArgumentError("step item has no tokens");
  const int64_t end = item.begin + static_cast<int64_t>(item.tokens.size());
  if (item.begin < 0 || end > c.max_positions) {
    return absl::InvalidArgumentError(absl::StrCat("step item covers positions ",
                                                   item.begin, " to ", end,
                                                   "; the model has ", c.max_positions));
  }
  if (static_cast<int64_t>(item.blocks.size()) < geometry.BlocksFor(end)) {
    return absl::InvalidArgumentError(absl::StrCat("step item has ", item.blocks.size(),
                                                   " cache blocks; it needs ",
                                                   geometry.BlocksFor(end)));
  }
  QUIRE_RETURN_IF_ERROR(item.attention.Validate());
  for (const BlockId block : item.blocks) {
    const auto id = static_cast<int32_t>(block);
    if (block == kNoBlock) continue;
    if (id < 0 || id >= geometry.num_blocks) {
      return absl::InvalidArgumentError(
          absl::StrCat("cache block ", id, " is not in [0, ", geometry.num_blocks, ")"));
    }
  }
  if (!item.targets.empty() && item.targets.size() != item.tokens.size()) {
    return absl::InvalidArgumentError(
        "step item's targets are not as many as its tokens");
  }
  const auto in_vocab = [&](TokenId t) { return t >= 0 && t < c.vocab_size; };
  if (!std::all_of(item.tokens.begin(), item.tokens.end(), in_vocab) ||
      !std::all_of(item.targets.begin(), item.targets.end(),
                   [&](TokenId t) { return t == kNoTarget || in_vocab(t); })) {
    return absl::InvalidArgumentError(
        absl::StrCat("step item has a token that is not in [0, ", c.vocab_size, ")"));
  }
  return absl::OkStatus();
}

absl::Status CheckCopies(const StepInput& input, const KvGeometry& geometry) {
  for (const BlockCopy& copy : input.copies) {
    for (const BlockId block : {copy.from, copy.to}) {
      const auto id = static_cast<int32_t>(block);
      if (id >= 0 && id < geometry.num_blocks) continue;
      return absl::InvalidArgumentError(absl::StrCat(
          "copied cache block ", id, " is not in [0, ", geometry.num_blocks, ")"));
    }
  }
  return absl::OkStatus();
}

}  // namespace quire

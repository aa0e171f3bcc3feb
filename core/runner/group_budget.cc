#include "core/runner/group_budget.h"

#include "absl/strings/str_cat.h"
#include "core/dga/group_plan.h"

namespace quire {

absl::Status GroupBudget::Take(const StepItem& item) {
  if (item.attention.mode != AttentionMode::kFaithful) return absl::OkStatus();
  if (item.begin == 0) Release(item.id);  // what another sequence left under this id
  const int64_t end = item.begin + static_cast<int64_t>(item.tokens.size());
  const int64_t wanted = GroupBytes(item.attention.faithful, end, config_.head_dim) *
                         config_.num_kv_heads * config_.num_layers;
  const auto found = of_.find(item.id);
  const int64_t had = found == of_.end() ? 0 : found->second;
  if (taken_ - had + wanted > bytes_) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "attention.mode is FAITHFUL; the groups of ", end, " tokens at group_tokens ",
        item.attention.faithful.group_tokens, " take ", wanted,
        " bytes beside the cache, of ", bytes_, " there others have ", taken_ - had));
  }
  taken_ += wanted - had;
  of_[item.id] = wanted;
  return absl::OkStatus();
}

void GroupBudget::Release(RequestId id) {
  const auto found = of_.find(id);
  if (found == of_.end()) return;
  taken_ -= found->second;
  of_.erase(found);
}

}  // namespace quire

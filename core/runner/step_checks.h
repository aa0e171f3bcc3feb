#pragma once

#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "core/config/model_config.h"
#include "core/kv/block_pool.h"
#include "core/step/step.h"

// The rules of core/step/step.h that hold whatever computes: what every runner refuses.
namespace quire {

// kInvalidArgument names what is wrong with the item. Whether blocks are there
// (kNoBlock) is not looked at.
absl::Status CheckItem(const StepItem& item, const ModelConfig& config,
                       const KvGeometry& geometry);

// The items of a step that may be computed, and a result for every item: those that break
// a rule are answered with it.
struct CheckedItems {
  std::vector<const StepItem*> items;
  std::vector<StepResult> results;

  // check: StepItem -> Status
  template <typename Check>
  CheckedItems(const StepInput& input, const Check& check) {
    for (const StepItem& item : input.items) {
      results.push_back({.id = item.id, .status = check(item)});
      if (results.back().status.ok()) items.push_back(&item);
    }
  }

  // With what `items` came to, in their order, in its places.
  std::vector<StepResult> Merge(std::vector<StepResult> computed) && {
    size_t next = 0;
    for (StepResult& result : results) {
      if (result.status.ok()) result = std::move(computed[next++]);
    }
    return std::move(results);
  }
};

absl::Status CheckCopies(const StepInput& input, const KvGeometry& geometry);

}  // namespace quire

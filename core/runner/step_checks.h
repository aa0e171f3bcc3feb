#pragma once

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

absl::Status CheckCopies(const StepInput& input, const KvGeometry& geometry);

}  // namespace quire

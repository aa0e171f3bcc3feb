#pragma once

#include "absl/status/statusor.h"
#include "core/engine/engine.h"
#include "core/kv/block_pool.h"
#include "core/schedule/step_cost.h"
#include "core/step/step.h"

namespace quire {

// The prices of steps on this machine, from a few that are run here: about half a second,
// and no step is begun after a second. Sparse rows are not run; their prices keep their
// proportion to the others. The runner must not be in use, its cache is overwritten.
// Errors are the runner's.
absl::StatusOr<StepCost> MeasureStepCost(ModelRunner& runner, const KvGeometry& kv,
                                         const ModelLimits& model);

}  // namespace quire

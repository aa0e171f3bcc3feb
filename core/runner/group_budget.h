#pragma once

#include <cstdint>
#include <map>

#include "absl/status/status.h"
#include "core/config/model_config.h"
#include "core/step/step.h"

namespace quire {

// The memory that sequences read FAITHFUL may take for their groups, beside the cache.
// What it is asked for is not the memory itself but GroupBytes of what a sequence has
// read so far; a request that wants more than there is fails, instead of a step of all.
class GroupBudget {
 public:
  GroupBudget(const ModelConfig& config, int64_t bytes)
      : config_(config), bytes_(bytes) {}

  // The item's sequence is about to have its tokens; other modes take nothing.
  // kResourceExhausted names the sizes; the sequence keeps what it had.
  absl::Status Take(const StepItem& item);
  void Release(RequestId id);

 private:
  const ModelConfig config_;
  const int64_t bytes_;
  int64_t taken_ = 0;
  std::map<RequestId, int64_t> of_;  // sums to taken_
};

}  // namespace quire

#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "core/engine/engine.h"

namespace quire {

// An engine that keeps the scheduling of what is submitted. The list is one thread's.
class SchedulingRecorder final : public Engine {
 public:
  SchedulingRecorder(Engine& engine, std::vector<Scheduling>& seen)
      : engine_(engine), seen_(seen) {}
  absl::StatusOr<RequestId> Submit(EngineRequest request,
                                   std::unique_ptr<RequestSink> sink) override {
    seen_.push_back(request.scheduling);
    return engine_.Submit(std::move(request), std::move(sink));
  }
  absl::Status CheckAdmission(const RequestShape& shape) const override {
    return engine_.CheckAdmission(shape);
  }
  RequestEstimate Estimate(const RequestShape& shape) const override {
    return engine_.Estimate(shape);
  }
  void Cancel(RequestId id) override { engine_.Cancel(id); }
  void Drain(absl::Time deadline) override { engine_.Drain(deadline); }
  EngineStats stats() const override { return engine_.stats(); }

 private:
  Engine& engine_;
  std::vector<Scheduling>& seen_;
};

}  // namespace quire

#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include "core/schedule/scheduler.h"

namespace quire {

// What plans do to an engine: requests, their blocks and the time, without tokens. Aborts
// if a plan cannot be carried out.
class SimulatedEngine {
 public:
  struct Request {
    ScheduledRequest request;
    int64_t answer_tokens = 1;  // after which it ends
    int32_t document = -1;      // requests of one share the blocks of their beginning
    int64_t document_tokens = 0;
    std::vector<int32_t> blocks;
    int64_t answered = 0;
  };
  struct Times {
    int64_t accepted_ns = 0;
    int64_t first_token_ns = -1;
    int64_t end_ns = 0;
  };

  SimulatedEngine(const ScheduleOptions& options, const StepCost& cost, int32_t tenants);

  // Sets its id and accepted_ns.
  RequestId Submit(Request request);
  void Cancel(RequestId id);
  void Advance(int64_t nanoseconds) { now_ns_ += nanoseconds; }

  ScheduleState State() const;
  void Apply(const StepPlan& plan);

  const std::map<RequestId, Request>& requests() const { return requests_; }
  const std::map<RequestId, Times>& ended() const { return ended_; }  // well
  int64_t now_ns() const { return now_ns_; }
  int64_t preemptions() const { return preemptions_; }
  // Every block is held by as many as it is said to be, and free ones are counted right.
  bool BlocksAddUp() const;

 private:
  ScheduledRequest Snapshot(const Request& request) const;
  const Request* Donor(const Request& request, int32_t* blocks) const;
  void Preempt(RequestId id);
  void Share(const PlannedItem& item);
  void Grow(const PlannedItem& item);
  void Compute(const PlannedItem& item);
  void Emit(Request& request);
  void GiveBack(Request& request);

  ScheduleOptions options_;
  StepCost cost_;
  int64_t now_ns_ = 0;
  uint64_t last_id_ = 0;
  int64_t preemptions_ = 0;
  std::vector<int64_t> served_tokens_;
  std::vector<int32_t> holders_;  // of each block
  std::vector<int32_t> free_;
  std::map<RequestId, Request> requests_;
  std::map<RequestId, Times> times_, ended_;
  std::vector<RequestId> over_;  // in this step
};

}  // namespace quire

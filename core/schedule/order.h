#pragma once

#include <compare>
#include <cstdint>
#include <vector>

#include "core/schedule/scheduler.h"

// The order of requests that scheduler.h describes.
namespace quire {

struct OrderKey {
  int32_t rank = 0;    // 0: overdue; else 1 + effective class
  int64_t served = 0;  // of the tenant; 0 if overdue
  int64_t accepted_ns = 0;
  RequestId id{};
  friend auto operator<=>(const OrderKey&, const OrderKey&) = default;
};

OrderKey KeyOf(const ScheduleOptions& options, const ScheduledRequest& request,
               int64_t now_ns, int64_t served_tokens);

// Requests in that order, first to last, while the tenants' served tokens grow: whom a
// tenant's tokens put behind another one comes behind. Holds references to all that it is
// made from. Not thread-safe.
class Line {
 public:
  // served_tokens of each tenant may grow, never shrink, while there is a Line.
  Line(const ScheduleOptions& options, const ScheduleState& state,
       const std::vector<int64_t>& served_tokens)
      : options_(options), state_(state), served_tokens_(served_tokens) {}

  void Add(int32_t index) { heap_.push_back({Key(index), index}); }  // in state.requests
  void Close();  // after the last Add, before the rest

  bool empty() const { return heap_.empty(); }
  int32_t Front();      // REQUIRES: not empty
  OrderKey FrontKey();  // REQUIRES: not empty
  int32_t TakeFront();  // REQUIRES: not empty

 private:
  struct Entry {
    OrderKey key;
    int32_t index;
  };
  OrderKey Key(int32_t index) const;
  void Settle();

  const ScheduleOptions& options_;
  const ScheduleState& state_;
  const std::vector<int64_t>& served_tokens_;
  std::vector<Entry> heap_;  // the first at the front; keys may be outdated
};

}  // namespace quire

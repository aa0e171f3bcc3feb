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
  Line(const ScheduleOptions& options, int64_t now_ns,
       const std::vector<int64_t>& served_tokens)
      : options_(options), now_ns_(now_ns), served_tokens_(served_tokens) {}

  void Add(const ScheduledRequest& request) { heap_.push_back({Key(request), &request}); }
  void Close();  // after the last Add, before all that follows

  bool empty() const { return heap_.empty(); }
  // REQUIRES: not empty.
  const ScheduledRequest& Front();
  OrderKey FrontKey();
  const ScheduledRequest& TakeFront();

 private:
  struct Entry {
    OrderKey key;  // may be outdated
    const ScheduledRequest* request;
  };
  OrderKey Key(const ScheduledRequest& request) const {
    return KeyOf(options_, request, now_ns_, served_tokens_[request.tenant]);
  }
  void Settle();

  const ScheduleOptions& options_;
  int64_t now_ns_;
  const std::vector<int64_t>& served_tokens_;
  std::vector<Entry> heap_;  // the first at the front
};

}  // namespace quire

#include "core/schedule/order.h"

#include <algorithm>

namespace quire {
namespace {

constexpr auto kLater = [](const auto& a, const auto& b) { return b.key < a.key; };

}  // namespace

OrderKey KeyOf(const ScheduleOptions& options, const ScheduledRequest& request,
               int64_t now_ns, int64_t served_tokens) {
  OrderKey key{.accepted_ns = request.accepted_ns, .id = request.id};
  if (IsOverdue(options, request, now_ns)) return key;
  key.rank = 1 + EffectivePriority(options, request, now_ns);
  key.served = served_tokens;
  return key;
}

void Line::Close() { std::make_heap(heap_.begin(), heap_.end(), kLater); }

const ScheduledRequest& Line::Front() {
  Settle();
  return *heap_.front().request;
}

OrderKey Line::FrontKey() {
  Settle();
  return heap_.front().key;
}

const ScheduledRequest& Line::TakeFront() {
  const ScheduledRequest& request = Front();
  std::pop_heap(heap_.begin(), heap_.end(), kLater);
  heap_.pop_back();
  return request;
}

// Keys only grow, so who has an outdated one is too far in front, never behind: once the
// front's is right, it is the first.
void Line::Settle() {
  for (;;) {
    const OrderKey key = Key(*heap_.front().request);
    if (key == heap_.front().key) return;
    std::pop_heap(heap_.begin(), heap_.end(), kLater);
    heap_.back().key = key;
    std::push_heap(heap_.begin(), heap_.end(), kLater);
  }
}

}  // namespace quire

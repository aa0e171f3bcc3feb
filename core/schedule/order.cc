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

OrderKey Line::Key(int32_t index) const {
  const ScheduledRequest& request = state_.requests[index];
  return KeyOf(options_, request, state_.now_ns, served_tokens_[request.tenant]);
}

void Line::Close() { std::make_heap(heap_.begin(), heap_.end(), kLater); }

int32_t Line::Front() {
  Settle();
  return heap_.front().index;
}

OrderKey Line::FrontKey() {
  Settle();
  return heap_.front().key;
}

int32_t Line::TakeFront() {
  const int32_t index = Front();
  std::pop_heap(heap_.begin(), heap_.end(), kLater);
  heap_.pop_back();
  return index;
}

// Keys only grow, so an outdated one is never too far behind: only the front can be
// wrong.
void Line::Settle() {
  for (;;) {
    const OrderKey key = Key(heap_.front().index);
    if (key == heap_.front().key) return;
    std::pop_heap(heap_.begin(), heap_.end(), kLater);
    heap_.back().key = key;
    std::push_heap(heap_.begin(), heap_.end(), kLater);
  }
}

}  // namespace quire

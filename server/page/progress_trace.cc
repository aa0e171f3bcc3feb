#include "server/page/progress_trace.h"

namespace quire::server {

void ProgressTrace::Add(const TracePoint& point) {
  const bool same = !points_.empty() && points_.back().phase == point.phase &&
                    points_.back().pass == point.pass;
  if (same && ++since_kept_ < stride_ && points_.size() > 1) {
    points_.back() = point;
    return;
  }
  since_kept_ = 0;
  if (points_.size() == kMaxPoints) ForgetHalf();
  points_.push_back(point);
}

void ProgressTrace::ForgetHalf() {
  size_t kept = 0;
  // Counted from the end, so that the last one stays.
  for (size_t i = 1; i < points_.size(); i += 2) points_[kept++] = points_[i];
  points_.resize(kept);
  stride_ *= 2;
}

}  // namespace quire::server

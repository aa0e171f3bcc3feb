#include "server/rpc/span_sums.h"

#include <algorithm>
#include <utility>

namespace quire::server {

SpanSums::SpanSums(std::vector<ByteSpan> spans) : spans_(std::move(spans)) {
  for (const ByteSpan& span : spans_) {
    bounds_.push_back(span.begin);
    bounds_.push_back(span.end);
  }
  std::sort(bounds_.begin(), bounds_.end());
  bounds_.erase(std::unique(bounds_.begin(), bounds_.end()), bounds_.end());
  between_.resize(bounds_.size());
}

void SpanSums::Add(int64_t byte, double value) {
  const auto after = std::upper_bound(bounds_.begin(), bounds_.end(), byte);
  if (after == bounds_.begin()) return;
  Sum& sum = between_[static_cast<size_t>(after - bounds_.begin()) - 1];
  sum.value += value;
  ++sum.tokens;
}

std::vector<SpanSums::Sum> SpanSums::Finish() const {
  // before[i]: all tokens before bounds_[i].
  std::vector<Sum> before(between_.size() + 1);
  for (size_t i = 0; i < between_.size(); ++i) {
    before[i + 1] = {before[i].value + between_[i].value,
                     before[i].tokens + between_[i].tokens};
  }
  std::vector<Sum> sums;
  for (const ByteSpan& span : spans_) {
    const auto at = [&](int64_t byte) -> const Sum& {
      return before[static_cast<size_t>(
          std::lower_bound(bounds_.begin(), bounds_.end(), byte) - bounds_.begin())];
    };
    const Sum &begin = at(span.begin), &end = at(span.end);
    sums.push_back({end.value - begin.value, end.tokens - begin.tokens});
  }
  return sums;
}

}  // namespace quire::server

#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "core/base/types.h"

namespace quire::server {

// Sums of tokens' values over many spans of a text that may overlap, as the tokens come:
// O(log n) a token, O(n) at the end, for n spans. Not thread-safe.
class SpanSums {
 public:
  explicit SpanSums(std::vector<ByteSpan> spans);

  // A token with a value, by the byte of the text that says where it stands.
  void Add(int64_t byte, double value);

  struct Sum {
    double value = 0;
    int64_t tokens = 0;
  };
  // One for each span, in their order.
  std::vector<Sum> Finish() const;

  absl::Span<const ByteSpan> spans() const { return spans_; }

 private:
  const std::vector<ByteSpan> spans_;
  std::vector<int64_t> bounds_;  // begins and ends of all spans, sorted, each once
  std::vector<Sum>
      between_;  // between_[i]: tokens that begin in [bounds_[i], bounds_[i + 1])
};

}  // namespace quire::server

#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "core/weights/tensor_view.h"

namespace quire {

// Tensors by name, as a reader found them in a file. Plain value; views borrow the file's
// bytes.
class TensorTable {
 public:
  using Views = std::map<std::string, TensorView, std::less<>>;

  // kInvalidArgument: the name is there already.
  absl::Status Add(std::string name, TensorView view);
  // A tensor that may lie in the file as long as nobody asks for it: Get refuses it by
  // its type.
  absl::Status AddUnsupported(std::string name, std::string type);

  bool Has(std::string_view name) const;
  // kNotFound names the tensor; kInvalidArgument reports got and wanted shapes;
  // kUnimplemented names the type.
  absl::StatusOr<TensorView> Get(std::string_view name,
                                 absl::Span<const int64_t> shape) const;
  // As Get, of any shape.
  absl::StatusOr<TensorView> Find(std::string_view name) const;
  const Views& views() const { return views_; }
  std::vector<std::string> names() const;

 private:
  Views views_;
  std::map<std::string, std::string, std::less<>> unsupported_;  // name -> type
};

// "[2, 3]"
std::string ShapeString(absl::Span<const int64_t> shape);

// Bytes that a tensor of that shape takes. kInvalidArgument: a negative dimension, a last
// dimension that is not whole blocks, more than 8 dimensions, or more than 2^62 bytes.
absl::StatusOr<int64_t> TensorBytes(BlockLayout layout, absl::Span<const int64_t> shape);

// Where a tensor's bytes lie, relative to the data section.
struct DataRange {
  std::string_view name;
  uint64_t begin = 0;
  uint64_t end = 0;
};

// kInvalidArgument names two tensors that share bytes, or, unless holes are allowed,
// bytes of [0, data_bytes) that no tensor owns. REQUIRES: begin <= end <= data_bytes for
// each range.
absl::Status CheckRanges(std::vector<DataRange> ranges, uint64_t data_bytes,
                         bool allow_holes);

}  // namespace quire

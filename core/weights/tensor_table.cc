#include "core/weights/tensor_table.h"

#include <algorithm>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "core/base/status_macros.h"
#include "core/base/to_absl.h"

namespace quire {
namespace {

constexpr size_t kMaxDims = 8;
constexpr int64_t kMaxBytes = int64_t{1} << 62;

absl::Status Twice(absl::string_view name) {
  return absl::InvalidArgumentError(absl::StrCat("tensor ", name, " is there twice"));
}

// False instead of overflowing.
bool Multiply(int64_t factor, int64_t& product) {
  return !__builtin_mul_overflow(product, factor, &product) && product <= kMaxBytes;
}

}  // namespace

absl::Status TensorTable::Add(std::string name, TensorView view) {
  if (Has(name)) return Twice(name);
  views_.emplace(std::move(name), std::move(view));
  return absl::OkStatus();
}

absl::Status TensorTable::AddUnsupported(std::string name, std::string type) {
  if (Has(name)) return Twice(name);
  unsupported_.emplace(std::move(name), std::move(type));
  return absl::OkStatus();
}

bool TensorTable::Has(std::string_view name) const {
  return views_.find(name) != views_.end() ||
         unsupported_.find(name) != unsupported_.end();
}

absl::StatusOr<TensorView> TensorTable::Find(std::string_view name) const {
  if (const auto view = views_.find(name); view != views_.end()) return view->second;
  if (const auto other = unsupported_.find(name); other != unsupported_.end()) {
    return absl::UnimplementedError(
        absl::StrCat("tensor ", ToAbsl(name), " has type ", other->second,
                     "; F32, F16, BF16, Q8_0, Q4_0 and Q4_1 are supported"));
  }
  return absl::NotFoundError(absl::StrCat("there is no tensor ", ToAbsl(name)));
}

absl::StatusOr<TensorView> TensorTable::Get(std::string_view name,
                                            absl::Span<const int64_t> shape) const {
  QUIRE_ASSIGN_OR_RETURN(TensorView view, Find(name));
  if (absl::MakeConstSpan(view.shape) != shape) {
    return absl::InvalidArgumentError(absl::StrCat("tensor ", ToAbsl(name), " has shape ",
                                                   ShapeString(view.shape),
                                                   "; it must be ", ShapeString(shape)));
  }
  return view;
}

std::vector<std::string> TensorTable::names() const {
  std::vector<std::string> names;
  for (const auto& [name, view] : views_) names.push_back(name);
  for (const auto& [name, type] : unsupported_) names.push_back(name);
  return names;
}

std::string ShapeString(absl::Span<const int64_t> shape) {
  return absl::StrCat("[", absl::StrJoin(shape, ", "), "]");
}

absl::StatusOr<int64_t> TensorBytes(BlockLayout layout, absl::Span<const int64_t> shape) {
  const auto refused = [&](absl::string_view why) {
    return absl::InvalidArgumentError(
        absl::StrCat("shape ", ShapeString(shape), " ", why));
  };
  if (shape.size() > kMaxDims) return refused("has more than 8 dimensions");
  int64_t bytes = layout.bytes;
  for (size_t i = 0; i < shape.size(); ++i) {
    if (shape[i] < 0) return refused("has a negative dimension");
    const bool last = i + 1 == shape.size();
    if (last && shape[i] % layout.values != 0) {
      return refused(
          absl::StrCat("does not end in whole blocks of ", layout.values, " values"));
    }
    if (!Multiply(last ? shape[i] / layout.values : shape[i], bytes)) {
      return refused("is too large");
    }
  }
  if (shape.empty() && layout.values != 1) return refused("holds no whole block");
  return bytes;
}

absl::Status CheckRanges(std::vector<DataRange> ranges, uint64_t data_bytes,
                         bool allow_holes) {
  std::sort(ranges.begin(), ranges.end(), [](const DataRange& a, const DataRange& b) {
    return std::tie(a.begin, a.end) < std::tie(b.begin, b.end);
  });
  uint64_t end = 0;
  std::string_view previous = "the header";
  for (const DataRange& range : ranges) {
    if (range.begin < end) {
      return absl::InvalidArgumentError(
          absl::StrCat("tensor ", ToAbsl(range.name), " begins at byte ", range.begin,
                       " of the data, inside tensor ", ToAbsl(previous)));
    }
    if (range.begin > end && !allow_holes) {
      return absl::InvalidArgumentError(absl::StrCat("bytes ", end, " to ", range.begin,
                                                     " of the data belong to no tensor"));
    }
    end = range.end;
    previous = range.name;
  }
  if (end != data_bytes && !allow_holes) {
    return absl::InvalidArgumentError(absl::StrCat("bytes ", end, " to ", data_bytes,
                                                   " of the data belong to no tensor"));
  }
  return absl::OkStatus();
}

}  // namespace quire

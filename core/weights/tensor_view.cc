#include "core/weights/tensor_view.h"

#include "core/base/check.h"

namespace quire {

std::string_view DTypeName(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return "F32";
    case DType::kF16:
      return "F16";
    case DType::kBF16:
      return "BF16";
    case DType::kQ8_0:
      return "Q8_0";
    case DType::kQ4_0:
      return "Q4_0";
    case DType::kQ4_1:
      return "Q4_1";
  }
  QUIRE_CHECK(false);
}

BlockLayout LayoutOf(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return {1, 4};
    case DType::kF16:
    case DType::kBF16:
      return {1, 2};
    case DType::kQ8_0:
      return {32, 2 + 32};
    case DType::kQ4_0:
      return {32, 2 + 16};
    case DType::kQ4_1:
      return {32, 2 + 2 + 16};
  }
  QUIRE_CHECK(false);
}

int64_t TensorView::num_elements() const {
  int64_t count = 1;  // readers have checked that the product fits
  for (const int64_t dim : shape) count *= dim;
  return count;
}

}  // namespace quire

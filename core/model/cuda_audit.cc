#include "core/model/cuda_audit.h"

#include "ATen/TensorOperators.h"
#include "ATen/ops/index_select.h"
#include "ATen/ops/where.h"
#include "ATen/ops/zeros_like.h"

namespace quire {

void AddAuditErrors(const at::Tensor& out, const at::Tensor& dense,
                    const at::Tensor& rows, at::Tensor& errors) {
  const auto select = [&](const at::Tensor& t) {
    return at::index_select(t.view({t.size(0), -1}), 0, rows).to(at::kFloat);
  };
  const at::Tensor wanted = select(dense);
  const at::Tensor difference = (select(out) - wanted).square().sum(1);
  const at::Tensor size = wanted.square().sum(1);
  errors.add_(at::where(size == 0, at::zeros_like(size), (difference / size).sqrt()));
}

}  // namespace quire

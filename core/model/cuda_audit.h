#pragma once

#include "ATen/core/Tensor.h"

namespace quire {

// How far the attention of audited rows is from dense attention, added to errors [A]
// float32: |out - dense| / |dense| over all heads of a row (0 where dense is 0). out,
// dense [T, H, D]: only rows [A] int32 of them are read. All on one device, which is not
// waited for.
void AddAuditErrors(const at::Tensor& out, const at::Tensor& dense,
                    const at::Tensor& rows, at::Tensor& errors);

}  // namespace quire

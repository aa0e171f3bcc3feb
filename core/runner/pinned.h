#pragma once

#include "ATen/core/Tensor.h"
#include "ATen/ops/empty.h"

namespace quire {

// Memory of the host that a GPU copies to and from while the host goes on.
inline at::Tensor Pinned(at::IntArrayRef shape, at::ScalarType type) {
  return at::empty(shape, at::TensorOptions(type).pinned_memory(true));
}

// A copy that is there when the current stream has come to it.
inline at::Tensor ToHost(const at::Tensor& t) {
  const at::Tensor host = Pinned(t.sizes(), t.scalar_type());
  host.copy_(t, /*non_blocking=*/true);
  return host;
}

}  // namespace quire

#pragma once

#include <functional>
#include <string>
#include <vector>

#include "ATen/core/Tensor.h"

namespace quire::cuda_attention {

// A dense attention of ATen: q [B, H, N, D], k, v [B, G, L, D] -> [B, H, N, D].
struct Peer {
  std::string name;
  std::function<at::Tensor(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                           bool causal)>
      run;
};
Peer CudnnPeer();
Peer FlashPeer();

// Runs it once. Why it does not take these inputs, or nothing.
std::string WhyRefused(const Peer& peer, const at::Tensor& q, const at::Tensor& k,
                       const at::Tensor& v, bool causal);

}  // namespace quire::cuda_attention

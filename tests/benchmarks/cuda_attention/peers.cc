#include "tests/benchmarks/cuda_attention/peers.h"

#include <cuda_runtime_api.h>

#include <exception>

#include "ATen/ops/_scaled_dot_product_cudnn_attention.h"
#include "ATen/ops/_scaled_dot_product_flash_attention.h"
#include "c10/cuda/CUDAException.h"

namespace quire::cuda_attention {

Peer CudnnPeer() {
  return {"cudnn",
          [](const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, bool causal) {
            return std::get<0>(at::_scaled_dot_product_cudnn_attention(
                q, k, v, /*attn_bias=*/{}, /*compute_log_sumexp=*/false,
                /*dropout_p=*/0, causal));
          }};
}

Peer FlashPeer() {
  return {"flash",
          [](const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, bool causal) {
            return std::get<0>(at::_scaled_dot_product_flash_attention(
                q, k, v, /*dropout_p=*/0, causal));
          }};
}

std::string WhyRefused(const Peer& peer, const at::Tensor& q, const at::Tensor& k,
                       const at::Tensor& v, bool causal) {
  try {
    peer.run(q, k, v, causal);
    C10_CUDA_CHECK(cudaDeviceSynchronize());
    return "";
  } catch (const std::exception& error) {
    const std::string what = error.what();  // c10's have a backtrace in further lines
    return peer.name + " refuses: " + what.substr(0, what.find('\n'));
  }
}

}  // namespace quire::cuda_attention

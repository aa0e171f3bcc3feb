#include <vector>

#include "ATen/ops/randn.h"
#include "tests/benchmarks/cuda_attention/cases.h"
#include "tests/benchmarks/cuda_attention/peers.h"

namespace quire::cuda_attention {

// cuDNN is the yardstick: with G heads of keys if it takes them, else with H.
bool MeasurePrefill(const Shape& s, Timer& timer, Report& report) {
  const auto options = at::TensorOptions().dtype(at::kBFloat16).device(at::kCUDA);
  const at::Tensor q = at::randn({s.batch, s.query_heads, s.length, s.dim}, options);
  at::Tensor k = at::randn({s.batch, s.kv_heads, s.length, s.dim}, options);
  at::Tensor v = at::randn({s.batch, s.kv_heads, s.length, s.dim}, options);
  const Peer peer = CudnnPeer();
  std::string kernel = "prefill_cudnn";
  if (const std::string why = WhyRefused(peer, q, k, v, true); !why.empty()) {
    report.Note(Name(s) + ", prefill: " + why + "; every query head gets its own keys");
    k = k.repeat_interleave(s.query_heads / s.kv_heads, 1);
    v = v.repeat_interleave(s.query_heads / s.kv_heads, 1);
    kernel = "prefill_cudnn_expanded";
  }
  const double microseconds =
      timer.MedianMicroseconds([&](int) { peer.run(q, k, v, /*causal=*/true); });
  const double pairs = static_cast<double>(s.batch * s.query_heads) *
                       static_cast<double>(s.length) * static_cast<double>(s.length + 1) /
                       2;
  const double teraflops = 4 * pairs * static_cast<double>(s.dim) / microseconds * 1e-6;
  report.Add({}, {{kernel, Name(s), microseconds, teraflops, kMatrixLimit}});
  return true;  // nothing to compare it with
}

}  // namespace quire::cuda_attention

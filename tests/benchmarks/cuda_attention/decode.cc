#include <cmath>
#include <vector>

#include "ATen/ops/arange.h"
#include "ATen/ops/full.h"
#include "ATen/ops/full_like.h"
#include "ATen/ops/randn.h"
#include "ATen/ops/randperm.h"
#include "ATen/ops/zeros.h"
#include "absl/strings/str_format.h"
#include "c10/cuda/CUDAException.h"
#include "c10/cuda/CUDAStream.h"
#include "core/kernels/cuda/cuda_kernels.h"
#include "tests/benchmarks/cuda_attention/decode_inputs.h"
#include "tests/benchmarks/cuda_attention/peers.h"

namespace quire::cuda_attention {
namespace {

using kernels::cuda::Bf16;
using kernels::cuda::kPageTokens;

// ||own - peer|| / ||peer||; both round weights and results to bfloat16.
constexpr double kTolerance = 1e-2;

at::Tensor Flatten(const at::Tensor& cache, const at::Tensor& pages, const Shape& s) {
  return cache.index_select(0, pages)
      .view({s.batch, -1, s.kv_heads, kPageTokens, s.dim})
      .permute({0, 2, 1, 3, 4})
      .reshape({s.batch, s.kv_heads, -1, s.dim})
      .narrow(2, 0, s.length)
      .contiguous();
}

// The same keys and values contiguous, for the peers.
struct Inputs : PagedInputs {
  explicit Inputs(const Shape& s)
      : PagedInputs(s), flat_k(Flatten(k, pages, s)), flat_v(Flatten(v, pages, s)) {}
  at::Tensor flat_k, flat_v;  // [B, G, L, D]
};

double RelativeError(const at::Tensor& own, const at::Tensor& other) {
  const at::Tensor expected = other.to(at::kFloat);
  return own.to(at::kFloat).sub(expected).norm().item().toDouble() /
         expected.norm().item().toDouble();
}

}  // namespace

double KvBytes(const Shape& s) {
  return 2.0 * 2.0 * static_cast<double>(s.batch * s.kv_heads * s.dim * s.length);
}

PagedInputs::PagedInputs(const Shape& s) {
  const auto options = at::TensorOptions().dtype(at::kBFloat16).device(at::kCUDA);
  const int64_t blocks = s.batch * ((s.length + kPageTokens - 1) / kPageTokens);
  q = at::randn({s.batch, s.query_heads, 1, s.dim}, options);
  k = at::randn({blocks, s.kv_heads, kPageTokens, s.dim}, options);
  v = at::randn({blocks, s.kv_heads, kPageTokens, s.dim}, options);
  pages = at::randperm(blocks, options.dtype(at::kInt));
}

Own::Own(const Shape& s) : stream_(c10::cuda::getCurrentCUDAStream().stream()) {
  const auto ints = at::TensorOptions().dtype(at::kInt).device(at::kCUDA);
  const int64_t pages = (s.length + kPageTokens - 1) / kPageTokens;
  rows_ = at::arange(s.batch, ints);
  lengths_ = at::full({s.batch}, s.length, ints);
  first_page_ = at::arange(s.batch + 1, ints).mul(pages);
  int device = 0, multiprocessors = 0;
  C10_CUDA_CHECK(cudaGetDevice(&device));
  C10_CUDA_CHECK(
      cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device));
  args_.rows = rows_.const_data_ptr<int32_t>();
  args_.lengths = lengths_.const_data_ptr<int32_t>();
  args_.first_page = first_page_.const_data_ptr<int32_t>();
  args_.sequences = args_.max_sequences = static_cast<int32_t>(s.batch);
  args_.blocks = multiprocessors;
  args_.query_heads = static_cast<int32_t>(s.query_heads);
  args_.kv_heads = static_cast<int32_t>(s.kv_heads);
  args_.head_dim = static_cast<int32_t>(s.dim);
  args_.scale = static_cast<float>(1 / std::sqrt(static_cast<double>(s.dim)));
  workspace_ = at::zeros(
      {kernels::cuda::DecodeWorkspaceBytes(args_.max_sequences, args_.query_heads,
                                           args_.kv_heads, args_.head_dim, args_.blocks)},
      ints.dtype(at::kByte));
  args_.workspace = workspace_.mutable_data_ptr();
}

void Own::Launch(const PagedInputs& in, const at::Tensor& out) const {
  kernels::cuda::DecodeArgs args = args_;
  args.q = static_cast<const Bf16*>(in.q.const_data_ptr());
  args.k = static_cast<const Bf16*>(in.k.const_data_ptr());
  args.v = static_cast<const Bf16*>(in.v.const_data_ptr());
  args.pages = in.pages.const_data_ptr<int32_t>();
  args.out = static_cast<Bf16*>(out.mutable_data_ptr());
  C10_CUDA_CHECK(kernels::cuda::DenseDecode(args, stream_));
}

std::string Name(const Shape& s) {
  return absl::StrFormat("H%d G%d D%d L%d B%d", s.query_heads, s.kv_heads, s.dim,
                         s.length, s.batch);
}

bool MeasureDecode(const Shape& shape, Timer& timer, Report& report) {
  const double terabytes = KvBytes(shape) * 1e-12;
  const int copies = static_cast<int>(std::ceil(kRotatedBytes / KvBytes(shape)));
  std::vector<Inputs> inputs;
  for (int i = 0; i < copies; ++i) inputs.emplace_back(shape);
  const auto row = [&](const std::string& kernel, double microseconds) {
    return Row{kernel, Name(shape), microseconds, terabytes / microseconds * 1e6,
               kCopyLimit};
  };
  Own own(shape);
  const at::Tensor out = at::full_like(inputs[0].q, NAN);
  own.Launch(inputs[0], out);
  std::vector<Row> peers;
  bool agreed = true;
  for (const Peer& peer : {CudnnPeer(), FlashPeer()}) {
    const auto run = [&](int i) {
      const Inputs& in = inputs[i % copies];
      return peer.run(in.q, in.flat_k, in.flat_v, /*causal=*/false);
    };
    const Inputs& first = inputs[0];
    const std::string why = WhyRefused(peer, first.q, first.flat_k, first.flat_v, false);
    if (!why.empty()) {
      report.Note(Name(shape) + ", decode: " + why);
      continue;
    }
    const double error = RelativeError(out, run(0));
    if (!(error <= kTolerance)) {  // NaN is not
      report.Note(absl::StrFormat("%s: own decode and %s differ by %g, relative",
                                  Name(shape), peer.name, error));
      agreed = false;
      continue;
    }
    peers.push_back(row("decode_" + peer.name, timer.MedianMicroseconds(run)));
  }
  const double microseconds =
      timer.MedianMicroseconds([&](int i) { own.Launch(inputs[i % copies], out); });
  report.Add({row("decode_own", microseconds)}, peers);
  return agreed;
}

}  // namespace quire::cuda_attention

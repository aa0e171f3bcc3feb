#include <algorithm>
#include <vector>

#include "ATen/ops/empty.h"
#include "ATen/ops/empty_like.h"
#include "ATen/ops/randn.h"
#include "ATen/ops/randperm.h"
#include "ATen/ops/zeros.h"
#include "absl/strings/str_format.h"
#include "c10/cuda/CUDAException.h"
#include "c10/cuda/CUDAStream.h"
#include "core/kernels/cuda/refined_prefill.h"
#include "tests/benchmarks/cuda_attention/cases.h"
#include "tests/benchmarks/cuda_attention/peers.h"

namespace quire::cuda_attention {
namespace {

namespace cuda = kernels::cuda;

// Rows of a call: a prompt is read in chunks.
constexpr int64_t kChunkRows = 8192;

cuda::Bf16* Data(const at::Tensor& t) { return static_cast<cuda::Bf16*>(t.data_ptr()); }

// A prompt in pages that lie scattered, and its refined attention.
class OwnRefinedPrefill {
 public:
  explicit OwnRefinedPrefill(const Shape& s) : shape_(s) {
    const auto options = at::TensorOptions().dtype(at::kBFloat16).device(at::kCUDA);
    const int64_t pages = (s.length + cuda::kPageTokens - 1) / cuda::kPageTokens;
    q_ = at::randn({s.length, s.query_heads, s.dim}, options);
    k_ = at::randn({pages, s.kv_heads, cuda::kPageTokens, s.dim}, options);
    v_ = at::randn({pages, s.kv_heads, cuda::kPageTokens, s.dim}, options);
    out_ = at::empty_like(q_);
    pages_ = at::randperm(pages, options.dtype(at::kInt));
    counts_ = at::zeros({3}, options.dtype(at::kLong));
    const int64_t last = (s.length - 1) / kChunkRows * kChunkRows;
    workspace_ =
        at::empty({cuda::RefinedPrefillWorkspaceBytes(
                      last, static_cast<int32_t>(s.length - last),
                      static_cast<int32_t>(s.query_heads),
                      static_cast<int32_t>(s.kv_heads), static_cast<int32_t>(s.dim))},
                  options.dtype(at::kByte));
  }

  void Launch(float log2_tau) const {
    for (int64_t begin = 0; begin < shape_.length; begin += kChunkRows) {
      const cuda::RefinedPrefillArgs args = {
          .q = Data(q_) + begin * q_.stride(0),
          .k = Data(k_),
          .v = Data(v_),
          .pages = pages_.const_data_ptr<int32_t>(),
          .out = Data(out_) + begin * q_.stride(0),
          .begin = begin,
          .rows = static_cast<int32_t>(std::min(kChunkRows, shape_.length - begin)),
          .query_heads = static_cast<int32_t>(shape_.query_heads),
          .kv_heads = static_cast<int32_t>(shape_.kv_heads),
          .head_dim = static_cast<int32_t>(shape_.dim),
          .scale = 1 / std::sqrt(static_cast<float>(shape_.dim)),
          .log2_tau = log2_tau,
          .workspace = workspace_.data_ptr(),
          .counts = static_cast<cuda::RefinedDecodeArgs::Counts*>(counts_.data_ptr())};
      C10_CUDA_CHECK(cuda::RefinedPrefill(args, c10::cuda::getCurrentCUDAStream()));
    }
  }

  // Far columns that a row reads, on average.
  double Columns(float log2_tau) {
    counts_.zero_();
    Launch(log2_tau);
    return static_cast<double>(counts_[0].item().toLong()) /
           static_cast<double>(shape_.length * shape_.query_heads);
  }

  // log2 of the eps^2 at which a row reads about so many far columns.
  float Aim(double columns) {
    float low = -16, high = 0;
    for (int i = 0; i < 7; ++i) {
      const float middle = (low + high) / 2;
      (Columns(middle) > columns ? low : high) = middle;
    }
    return high;
  }

 private:
  const Shape shape_;
  at::Tensor q_, k_, v_, out_, pages_, counts_, workspace_;
};

double Teraflops(const Shape& s, double microseconds) {
  const double pairs = static_cast<double>(s.batch * s.query_heads) *
                       static_cast<double>(s.length) * static_cast<double>(s.length + 1) /
                       2;
  return 4 * pairs * static_cast<double>(s.dim) / microseconds * 1e-6;
}

// cuDNN is the yardstick: with G heads of keys if it takes them, else with H.
Row MeasureCudnn(const Shape& s, Timer& timer, Report& report) {
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
  const double us =
      timer.MedianMicroseconds([&](int) { peer.run(q, k, v, /*causal=*/true); });
  return {kernel, Name(s), us, Teraflops(s, us), kMatrixLimit};
}

}  // namespace

bool MeasurePrefill(const Shape& s, Timer& timer, Report& report) {
  const Row cudnn = MeasureCudnn(s, timer, report);
  report.Add({}, {cudnn});
  OwnRefinedPrefill refined(s);
  // quire-135m's tiles choose some 1,500 far columns at eps .04 (docs/gpu.md).
  for (const double columns : {750., 1500., 3000.}) {
    const float log2_tau = refined.Aim(columns);
    const double read = refined.Columns(log2_tau);
    const double us = timer.MedianMicroseconds([&](int) { refined.Launch(log2_tau); });
    report.Add({{absl::StrFormat("prefill_refined_%.0f_columns", read), Name(s), us,
                 Teraflops(s, us), kMatrixLimit}},
               {cudnn});
  }
  return true;
}

}  // namespace quire::cuda_attention

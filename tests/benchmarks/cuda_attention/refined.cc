#include "core/kernels/cuda/refined.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "ATen/ops/arange.h"
#include "ATen/ops/empty.h"
#include "ATen/ops/empty_like.h"
#include "ATen/ops/full.h"
#include "ATen/ops/randperm.h"
#include "ATen/ops/zeros.h"
#include "absl/strings/str_format.h"
#include "c10/cuda/CUDAException.h"
#include "tests/benchmarks/cuda_attention/decode_inputs.h"

namespace quire::cuda_attention {
namespace {

namespace cuda = kernels::cuda;
using cuda::kPageTokens;

constexpr int kDraws = 32768;
constexpr int64_t kNearPages = 4;  // the first, and a window of three

template <typename T>
at::Tensor Upload(const std::vector<T>& values, at::ScalarType type) {
  at::Tensor host = at::empty({static_cast<int64_t>(values.size())}, type);
  std::copy(values.begin(), values.end(), static_cast<T*>(host.mutable_data_ptr()));
  return host.to(at::kCUDA);
}

// Even over (0, 1] as 128 log2 u, in any order.
at::Tensor Draws() {
  const at::Tensor order = at::randperm(kDraws, at::kLong);
  std::vector<int16_t> draws(kDraws + cuda::kRefinedDrawPadding);
  for (int i = 0; i < kDraws; ++i) {
    const double u =
        (static_cast<double>(order.const_data_ptr<int64_t>()[i]) + .5) / kDraws;
    draws[i] = static_cast<int16_t>(std::lround(128 * std::log2(u)));
  }
  std::copy_n(draws.begin(), cuda::kRefinedDrawPadding, draws.begin() + kDraws);
  return Upload(draws, at::kShort);
}

// Inputs with their index, and the tables of what is near and what far.
struct RefinedInputs : PagedInputs {
  explicit RefinedInputs(const Shape& s) : PagedInputs(s) {
    const int64_t each = pages.size(0) / s.batch;
    const at::Tensor table = pages.view({s.batch, each});
    const int64_t far = each - kNearPages;
    far_pages = table.narrow(1, 1, far).contiguous();
    near_pages = at::empty({s.batch, kNearPages}, pages.options());
    near_pages.narrow(1, 0, 1).copy_(table.narrow(1, 0, 1));
    near_pages.narrow(1, 1, kNearPages - 1)
        .copy_(table.narrow(1, 1 + far, kNearPages - 1));
    index = at::empty(
        {k.size(0), s.kv_heads, cuda::IndexPageBytes(static_cast<int32_t>(s.dim))},
        pages.options().dtype(at::kByte));
  }
  at::Tensor near_pages, far_pages, index;
};

class OwnRefined {
 public:
  explicit OwnRefined(const Shape& s) : own_(s), shape_(s), draws_(Draws()) {
    const auto ints = at::TensorOptions().dtype(at::kInt).device(at::kCUDA);
    const int64_t each = (s.length + kPageTokens - 1) / kPageTokens;
    far_ = each - kNearPages;
    lengths_ = at::full({s.batch}, kNearPages * kPageTokens, ints);
    near_first_ = at::arange(s.batch + 1, ints).mul(kNearPages);
    far_first_ = at::arange(s.batch + 1, ints).mul(far_);
    tau_ = at::zeros({s.batch}, ints.dtype(at::kFloat));
    counts_ = at::zeros({s.batch, 3}, ints.dtype(at::kLong));
    args_.near = own_.args();
    args_.near.lengths = lengths_.const_data_ptr<int32_t>();
    args_.near.first_page = near_first_.const_data_ptr<int32_t>();
    args_.first_far_page = far_first_.const_data_ptr<int32_t>();
    args_.draws = draws_.const_data_ptr<int16_t>();
    args_.log2_tau = tau_.const_data_ptr<float>();
    args_.far_page_count = s.batch * far_;
    args_.counts =
        reinterpret_cast<cuda::RefinedDecodeArgs::Counts*>(counts_.mutable_data_ptr());
    workspace_ = at::zeros(
        {cuda::RefinedWorkspaceBytes(args_.near.max_sequences, args_.near.query_heads,
                                     args_.near.kv_heads, args_.near.head_dim,
                                     args_.near.blocks, args_.far_page_count)},
        ints.dtype(at::kByte));
    args_.workspace = workspace_.mutable_data_ptr();
  }

  void BuildIndex(const RefinedInputs& in) const {
    C10_CUDA_CHECK(cuda::IndexPages(
        static_cast<const cuda::Bf16*>(in.k.const_data_ptr()),
        in.far_pages.const_data_ptr<int32_t>(), in.far_pages.numel(), args_.near.kv_heads,
        args_.near.head_dim, static_cast<uint8_t*>(in.index.data_ptr()), own_.stream()));
  }

  void Launch(const RefinedInputs& in, const at::Tensor& out) const {
    cuda::RefinedDecodeArgs args = args_;
    args.near.q = static_cast<const cuda::Bf16*>(in.q.const_data_ptr());
    args.near.k = static_cast<const cuda::Bf16*>(in.k.const_data_ptr());
    args.near.v = static_cast<const cuda::Bf16*>(in.v.const_data_ptr());
    args.near.pages = in.near_pages.const_data_ptr<int32_t>();
    args.near.out = static_cast<cuda::Bf16*>(out.mutable_data_ptr());
    args.index = static_cast<const uint8_t*>(in.index.const_data_ptr());
    args.far_pages = in.far_pages.const_data_ptr<int32_t>();
    C10_CUDA_CHECK(cuda::RefinedDecode(args, own_.stream()));
  }

  // The share of far keys that a head reads.
  double Share(const RefinedInputs& in, const at::Tensor& out, double log2_tau) {
    tau_.fill_(log2_tau);
    counts_.zero_();
    Launch(in, out);
    return static_cast<double>(counts_.select(1, 0).sum().item().toLong()) /
           static_cast<double>(shape_.batch * shape_.query_heads * far_ * kPageTokens);
  }

  // Sets eps so that about `share` of the far keys are read.
  double Aim(const RefinedInputs& in, const at::Tensor& out, double share) {
    double low = -40, high = 0;
    for (int i = 0; i < 20; ++i) {
      const double middle = (low + high) / 2;
      (Share(in, out, middle) > share ? low : high) = middle;
    }
    return Share(in, out, low);
  }

  // What has to be read: index, near keys and values, and `share` of the others.
  double Bytes(double share) const {
    const double d = static_cast<double>(shape_.dim);
    const double heads = static_cast<double>(shape_.batch * shape_.kv_heads);
    return heads *
           (static_cast<double>(far_) *
                cuda::IndexPageBytes(static_cast<int32_t>(shape_.dim)) +
            4 * d * kPageTokens * (kNearPages + share * static_cast<double>(far_)));
  }

 private:
  const Own own_;
  const Shape shape_;
  int64_t far_ = 0;
  at::Tensor draws_, lengths_, near_first_, far_first_, tau_, counts_, workspace_;
  cuda::RefinedDecodeArgs args_;
};

}  // namespace

bool MeasureRefined(const Shape& shape, Timer& timer, Report& report) {
  const int copies = static_cast<int>(std::ceil(kRotatedBytes / KvBytes(shape) * 4));
  std::vector<RefinedInputs> inputs;
  for (int i = 0; i < copies; ++i) inputs.emplace_back(shape);
  OwnRefined refined(shape);
  const Own dense(shape);
  const at::Tensor out = at::empty_like(inputs[0].q);
  for (const RefinedInputs& in : inputs) refined.BuildIndex(in);
  const double dense_us =
      timer.MedianMicroseconds([&](int i) { dense.Launch(inputs[i % copies], out); });
  const Row peer = {"decode_own", Name(shape), dense_us, KvBytes(shape) / dense_us * 1e-6,
                    kCopyLimit};
  // quire-135m reads about 440 far keys a head whatever the length: 2.8 % at 30K.
  for (const double tokens : {450., 1800.}) {
    const double share =
        refined.Aim(inputs[0], out, tokens / static_cast<double>(shape.length));
    const double us =
        timer.MedianMicroseconds([&](int i) { refined.Launch(inputs[i % copies], out); });
    report.Add({{absl::StrFormat("decode_refined_%.2f%%", 100 * share), Name(shape), us,
                 refined.Bytes(share) / us * 1e-6, kCopyLimit}},
               {peer});
  }
  const double index_us =
      timer.MedianMicroseconds([&](int i) { refined.BuildIndex(inputs[i % copies]); });
  report.Add({{"index_pages", Name(shape), index_us, KvBytes(shape) / 2 / index_us * 1e-6,
               kCopyLimit}},
             {});
  return true;
}

}  // namespace quire::cuda_attention

#include "core/model/cuda_prefill.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "ATen/TensorOperators.h"
#include "ATen/ops/_scaled_dot_product_cudnn_attention.h"
#include "ATen/ops/_scaled_dot_product_flash_attention.h"
#include "ATen/ops/arange.h"
#include "ATen/ops/bmm.h"
#include "ATen/ops/empty.h"
#include "ATen/ops/index_select.h"
#include "c10/cuda/CUDAStream.h"
#include "core/kernels/cuda/cuda_kernels.h"
#include "core/kernels/cuda/refined_prefill.h"
#include "core/model/cuda_check.h"

namespace quire {
namespace {

using kernels::SequenceRows;
using kernels::cuda::Bf16;

// cuDNN is up to 1.8 times as fast as flash attention on Hopper, but makes a plan for
// each new shape, which takes milliseconds: only for chunks that are long and whose
// shapes come again.
constexpr int64_t kCudnnRows = 1024;
constexpr int64_t kCudnnMultiple = 256;

// Rows of a call of RefinedPrefill, which bound its workspace.
constexpr int64_t kRefinedRows = 8192;

// Probed rows whose scores exist at a time.
constexpr int64_t kProbeRows = 16;

struct Part {
  at::Tensor out;  // [rows, H, D]
  at::Tensor lse;  // [H, rows] float32, natural log
};

bool SuitsCudnn(int64_t rows, int64_t keys) {
  return rows >= kCudnnRows && rows % kCudnnMultiple == 0 && keys % kCudnnMultiple == 0;
}

// q [1, H, rows, D], k and v [1, G, keys, D].
Part Sdpa(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, bool causal,
          float scale) {
  at::Tensor out, lse;
  if (SuitsCudnn(q.size(2), k.size(2))) {
    // cuDNN takes as many key heads as query heads.
    const int64_t share = q.size(1) / k.size(1);
    const auto expanded = [&](const at::Tensor& x) {
      return share == 1 ? x : x.repeat_interleave(share, 1);
    };
    auto result = at::_scaled_dot_product_cudnn_attention(
        q, expanded(k), expanded(v), std::nullopt, /*compute_log_sumexp=*/true, 0.0,
        causal, false, scale);
    out = std::get<0>(result), lse = std::get<1>(result);
  } else {
    auto result =
        at::_scaled_dot_product_flash_attention(q, k, v, 0.0, causal, false, scale);
    out = std::get<0>(result), lse = std::get<1>(result);
  }
  return {out[0].transpose(0, 1).contiguous(),
          lse.reshape({q.size(1), q.size(2)}).to(at::kFloat).contiguous()};
}

Bf16* Data(const at::Tensor& t) { return static_cast<Bf16*>(t.data_ptr()); }

}  // namespace

at::Tensor GatherTokens(const at::Tensor& side, const int32_t* pages, int64_t tokens) {
  const int64_t heads = side.size(1), d = side.size(3);
  at::Tensor out = at::empty({heads, tokens, d}, side.options());
  ThrowIfError(kernels::cuda::GatherPages(
      Data(side), pages, tokens, static_cast<int32_t>(heads), static_cast<int32_t>(d),
      Data(out), c10::cuda::getCurrentCUDAStream()));
  return out;
}

void DensePrefill(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                  const SequenceRows& s, float scale, at::Tensor& out) {
  const at::Tensor rows = q.narrow(0, s.first_row, s.rows).transpose(0, 1).unsqueeze(0);
  const auto part = [&](const at::Tensor& x, int64_t first, int64_t count) {
    return x.narrow(1, first, count).unsqueeze(0);
  };
  Part whole = Sdpa(rows, part(k, s.begin, s.rows), part(v, s.begin, s.rows),
                    /*causal=*/true, scale);
  if (s.begin > 0) {
    const Part before =
        Sdpa(rows, part(k, 0, s.begin), part(v, 0, s.begin), /*causal=*/false, scale);
    ThrowIfError(kernels::cuda::MergeAttention(
        Data(whole.out), whole.lse.data_ptr<float>(), Data(before.out),
        before.lse.const_data_ptr<float>(), s.rows, static_cast<int32_t>(q.size(1)),
        static_cast<int32_t>(q.size(2)), c10::cuda::getCurrentCUDAStream()));
  }
  out.narrow(0, s.first_row, s.rows).copy_(whole.out);
}

void RefinedPrompt(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                   const SequenceRows& s, const RefinedPromptOptions& options,
                   at::Tensor& out) {
  namespace cuda = kernels::cuda;
  for (int64_t first = 0; first < s.rows; first += kRefinedRows) {
    cuda::RefinedPrefillArgs args = {
        .q = Data(q) + (s.first_row + first) * q.stride(0),
        .k = Data(k),
        .v = Data(v),
        .pages = options.pages,
        .out = Data(out) + (s.first_row + first) * out.stride(0),
        .begin = s.begin + first,
        .rows = static_cast<int32_t>(std::min(kRefinedRows, s.rows - first)),
        .query_heads = static_cast<int32_t>(q.size(1)),
        .kv_heads = static_cast<int32_t>(k.size(1)),
        .head_dim = static_cast<int32_t>(q.size(2)),
        .scale = options.scale,
        .log2_tau = 2 * std::log2(options.eps),
        .seed = static_cast<uint32_t>(options.layer),
        .counts = static_cast<cuda::RefinedDecodeArgs::Counts*>(options.counts)};
    const at::Tensor workspace = at::empty(
        {cuda::RefinedPrefillWorkspaceBytes(args.begin, args.rows, args.query_heads,
                                            args.kv_heads, args.head_dim)},
        q.options().dtype(at::kByte));
    args.workspace = workspace.data_ptr();
    ThrowIfError(cuda::RefinedPrefill(args, c10::cuda::getCurrentCUDAStream()));
  }
}

void ProbeOnDevice(const at::Tensor& q, const at::Tensor& k, const SequenceRows& s,
                   absl::Span<const int64_t> rows, float scale, at::Tensor& attention) {
  const int64_t n = attention.size(0), heads = k.size(0), d = q.size(2);
  const int64_t share = q.size(1) / heads;
  const at::Tensor keys = k.narrow(1, 0, n).transpose(1, 2);  // [G, D, n]
  const at::Tensor positions = at::arange(n, q.options().dtype(at::kLong));
  for (size_t first = 0; first < rows.size(); first += kProbeRows) {
    const auto part = rows.subspan(first, kProbeRows);
    const auto count = static_cast<int64_t>(part.size());
    at::Tensor index = at::empty({count}, at::kLong);
    std::copy(part.begin(), part.end(), index.data_ptr<int64_t>());
    index = index.to(q.device());
    // [G, rows R, D]
    const at::Tensor queries = at::index_select(q, 0, index + s.first_row)
                                   .view({count, heads, share * d})
                                   .transpose(0, 1)
                                   .reshape({heads, count * share, d});
    at::Tensor scores =
        at::bmm(queries, keys).to(at::kFloat).mul_(scale).view({heads, count, share, n});
    const at::Tensor seen = (index + s.begin).view({1, count, 1, 1});
    scores.masked_fill_(positions.view({1, 1, 1, n}) > seen,
                        -std::numeric_limits<float>::infinity());
    attention.add_(scores.softmax(-1).sum(at::IntArrayRef{0, 1, 2}),
                   1.0f / static_cast<float>(q.size(1)));
  }
}

}  // namespace quire

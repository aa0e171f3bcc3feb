#include "core/model/cuda_prefill.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "ATen/TensorOperators.h"
#include "ATen/ops/_scaled_dot_product_cudnn_attention.h"
#include "ATen/ops/_scaled_dot_product_flash_attention.h"
#include "ATen/ops/arange.h"
#include "ATen/ops/bmm.h"
#include "ATen/ops/empty.h"
#include "ATen/ops/empty_like.h"
#include "ATen/ops/index_select.h"
#include "ATen/ops/zeros.h"
#include "c10/cuda/CUDAStream.h"
#include "core/base/check.h"
#include "core/kernels/cuda/cuda_kernels.h"
#include "core/kernels/cuda/refined_prefill.h"
#include "core/model/cuda_check.h"
#include "core/model/prompt_pieces.h"

namespace quire {
namespace {

using kernels::SequenceRows;
using kernels::cuda::Bf16;

// Rows of a call of RefinedPrefill, which bound its workspace.
constexpr int64_t kRefinedRows = 8192;

// Probed rows whose scores exist at a time.
constexpr int64_t kProbeRows = 16;

Bf16* Data(const at::Tensor& t) { return static_cast<Bf16*>(t.data_ptr()); }

// Rows of a chunk, at most kPromptTileRows, that are read together. Several attentions
// over disjoint keys, merged by their sums of weights: see prompt_pieces.h.
class DenseTile {
 public:
  // q, out [rows, H, D], contiguous; the first row is at position `begin`.
  DenseTile(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
            const int32_t* pages, int64_t begin, float scale)
      : q_(q), k_(k), v_(v), pages_(pages), begin_(begin), scale_(scale) {
    merge_.rows = q.size(0);
    merge_.query_heads = static_cast<int32_t>(q.size(1));
    merge_.kv_heads = static_cast<int32_t>(k.size(1));
    merge_.head_dim = static_cast<int32_t>(q.size(2));
  }

  void Run(at::Tensor& out) {
    const int64_t rows = q_.size(0), padded = PaddedPromptRows(rows);
    const int64_t read = PromptPiece(begin_, padded);
    if (read > 0) {
      AddGrouped(Cudnn(Grouped(padded), Gather(0, read), /*causal=*/false));
    }
    const Keys tail = Gather(read, begin_ + rows - read);
    const at::Tensor q = q_.transpose(0, 1).unsqueeze(0);  // [1, H, rows, D]
    const int64_t rest = begin_ - read;
    if (rest > 0) Add(Flash(q, tail.Part(0, rest), /*causal=*/false));
    const Keys own = tail.Part(rest, rows);
    Add(padded == rows ? Cudnn(q, own.ForEachOf(share()), /*causal=*/true)
                       : Flash(q, own, /*causal=*/true));
    merge_.out = Data(out);
    ThrowIfError(
        kernels::cuda::MergeAttention(merge_, c10::cuda::getCurrentCUDAStream()));
  }

 private:
  struct Keys {
    at::Tensor k, v;  // [1, G, n, D]
    Keys Part(int64_t first, int64_t count) const {
      return {k.narrow(2, first, count), v.narrow(2, first, count)};
    }
    // Contiguous, a copy for each query head, as cuDNN wants it where rows are not
    // grouped by key/value head. (Strides are part of what it makes plans for.)
    Keys ForEachOf(int64_t share) const {
      if (share == 1) return {k.contiguous(), v.contiguous()};
      return {k.repeat_interleave(share, 1), v.repeat_interleave(share, 1)};
    }
  };
  struct Attended {
    at::Tensor out;  // [heads, n, D]
    at::Tensor lse;  // [heads, n] float32, natural log
  };

  int64_t share() const { return q_.size(1) / k_.size(1); }

  // Of positions [first, first + count); `first` begins a page.
  Keys Gather(int64_t first, int64_t count) const {
    const int32_t* const pages = pages_ + first / kernels::cuda::kPageTokens;
    return {GatherTokens(k_, pages, count).unsqueeze(0),
            GatherTokens(v_, pages, count).unsqueeze(0)};
  }

  // Without a mask all query heads of a key/value head are rows of one head: nothing of
  // the keys has to be copied for each. [1, G, padded R, D], zeros behind the rows.
  at::Tensor Grouped(int64_t padded) const {
    const int64_t rows = q_.size(0), heads = k_.size(1), d = q_.size(2);
    const at::Tensor by_head = q_.view({rows, heads, share(), d}).transpose(0, 1);
    if (padded == rows) {
      return by_head.reshape({1, heads, rows * share(), d}).contiguous();
    }
    const at::Tensor all = at::zeros({heads, padded, share(), d}, q_.options());
    all.narrow(1, 0, rows).copy_(by_head);
    return all.view({1, heads, padded * share(), d});
  }

  Attended Cudnn(const at::Tensor& q, const Keys& keys, bool causal) const {
    auto result = at::_scaled_dot_product_cudnn_attention(q, keys.k, keys.v, std::nullopt,
                                                          /*compute_log_sumexp=*/true,
                                                          0.0, causal, false, scale_);
    return Take(q, std::get<0>(result), std::get<1>(result));
  }
  Attended Flash(const at::Tensor& q, const Keys& keys, bool causal) const {
    auto result = at::_scaled_dot_product_flash_attention(q, keys.k, keys.v, 0.0, causal,
                                                          false, scale_);
    return Take(q, std::get<0>(result), std::get<1>(result));
  }
  static Attended Take(const at::Tensor& q, const at::Tensor& out,
                       const at::Tensor& lse) {
    return {out[0], lse.reshape({q.size(1), q.size(2)}).to(at::kFloat).contiguous()};
  }

  // Of q as it is, and of Grouped.
  void Add(const Attended& part) {
    const int64_t heads = q_.size(1), rows = q_.size(0), d = q_.size(2);
    const at::Tensor out = part.out.transpose(0, 1).contiguous();  // [rows, H, D]
    Add(out, part.lse,
        {.out_row = heads * d,
         .out_head = share() * d,
         .lse_row = 1,
         .lse_head = share() * rows,
         .lse_share = rows});
  }
  void AddGrouped(const Attended& part) {
    const int64_t rows = part.out.size(1), d = q_.size(2);  // padded, times R
    Add(part.out.contiguous(), part.lse,
        {.out_row = share() * d,
         .out_head = rows * d,
         .lse_row = share(),
         .lse_head = rows,
         .lse_share = 1});
  }
  void Add(at::Tensor out, const at::Tensor& lse, kernels::cuda::AttentionPart part) {
    QUIRE_CHECK(merge_.count < kernels::cuda::kMaxAttentionParts);
    part.out = Data(out);
    part.lse = lse.const_data_ptr<float>();
    merge_.parts[merge_.count++] = part;
    held_.push_back(std::move(out));
    held_.push_back(lse);
  }

  const at::Tensor q_;
  const at::Tensor& k_;
  const at::Tensor& v_;
  const int32_t* const pages_;
  const int64_t begin_;
  const float scale_;
  kernels::cuda::MergeArgs merge_;
  std::vector<at::Tensor> held_;  // what merge_ points at
};

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
                  const int32_t* pages, const SequenceRows& s, float scale,
                  at::Tensor& out) {
  for (int64_t first = 0; first < s.rows; first += kPromptTileRows) {
    const int64_t rows = std::min(kPromptTileRows, s.rows - first);
    at::Tensor tile_out = out.narrow(0, s.first_row + first, rows);
    DenseTile(q.narrow(0, s.first_row + first, rows), k, v, pages, s.begin + first, scale)
        .Run(tile_out);
  }
}

void PlanDensePrefill(int64_t heads, int64_t kv_heads, int64_t head_dim, int64_t tokens,
                      at::Device device) {
  const auto options = at::TensorOptions(at::kBFloat16).device(device);
  const int64_t page = kernels::cuda::kPageTokens;
  // A sequence of one and the same page.
  const at::Tensor cache = at::zeros({1, kv_heads, page, head_dim}, options);
  const at::Tensor pages = at::zeros({(kLongestPlannedPiece + kPromptTileRows) / page},
                                     options.dtype(at::kInt));
  const at::Tensor q = at::zeros({kPromptTileRows, heads, head_dim}, options);
  at::Tensor out = at::empty_like(q);
  for (int64_t before = 0; before <= kLongestPlannedPiece && before < tokens;
       before += kPromptTileRows) {
    DenseTile(q, cache, cache, pages.const_data_ptr<int32_t>(), before, 1).Run(out);
  }
  c10::cuda::getCurrentCUDAStream().synchronize();
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

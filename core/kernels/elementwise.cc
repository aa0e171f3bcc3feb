#include <cmath>

#include "ATen/Parallel.h"
#include "ATen/TensorOperators.h"
#include "ATen/ops/empty.h"
#include "ATen/ops/mean.h"
#include "ATen/ops/mul.h"
#include "ATen/ops/rsqrt.h"
#include "ATen/ops/silu.h"
#include "core/base/check.h"
#include "core/kernels/cpu/bf16_kernels.h"
#include "core/kernels/kernels.h"

namespace quire::kernels {
namespace {

constexpr int64_t kRowsPerTask = 16;

// What rotating and storing needs of one value type.
float Load(const float* x) { return *x; }
float Load(const at::BFloat16* x) { return static_cast<float>(*x); }

struct RopeArgs {
  HeadShape shape;
  const float* cos = nullptr;  // of the row's position, [D / 2]
  const float* sin = nullptr;
  float norm_eps = 0;
};

// One head of one row: optional RMSNorm, then rotation of channel i with i + D / 2.
template <typename T>
void RotateHead(const T* in, const float* norm, const RopeArgs& args, T* out) {
  const int64_t half = args.shape.head_dim / 2;
  float inverse = 1;
  if (norm != nullptr) {
    float squares = 0;
    for (int64_t i = 0; i < 2 * half; ++i) squares += Load(in + i) * Load(in + i);
    inverse = 1.0f / std::sqrt(squares / static_cast<float>(2 * half) + args.norm_eps);
  }
  for (int64_t i = 0; i < half; ++i) {
    float a = Load(in + i) * inverse;
    float b = Load(in + half + i) * inverse;
    if (norm != nullptr) {
      a *= norm[i];
      b *= norm[half + i];
    }
    out[i] = static_cast<T>(a * args.cos[i] - b * args.sin[i]);
    out[half + i] = static_cast<T>(b * args.cos[i] + a * args.sin[i]);
  }
}

struct Tensors {
  const at::Tensor& qkv;
  const at::Tensor& q_norm;
  const at::Tensor& k_norm;
  at::Tensor& q;
  PagedKv& kv;
};

const float* DataOrNull(const at::Tensor& t) {
  return t.defined() ? t.const_data_ptr<float>() : nullptr;
}

template <typename T>
void RopeRow(const Tensors& t, const RopeArgs& args, int64_t row, BlockId block,
             int64_t slot) {
  const auto [heads, kv_heads, d] = args.shape;
  const int64_t rows = t.qkv.size(0);
  const int64_t share = heads / kv_heads;
  const T* const in = t.qkv.const_data_ptr<T>() + row * (heads + 2 * kv_heads) * d;
  for (int64_t h = 0; h < heads; ++h) {
    const int64_t g = h / share;
    T* const out = t.q.data_ptr<T>() + ((g * rows + row) * share + h % share) * d;
    RotateHead(in + h * d, DataOrNull(t.q_norm), args, out);
  }
  const int64_t tokens = t.kv.block_tokens();
  for (int64_t g = 0; g < kv_heads; ++g) {
    const int64_t at = ((static_cast<int64_t>(block) * kv_heads + g) * tokens + slot) * d;
    RotateHead(in + (heads + g) * d, DataOrNull(t.k_norm), args,
               t.kv.k.data_ptr<T>() + at);
    const T* const v = in + (heads + kv_heads + g) * d;
    std::copy(v, v + d, t.kv.v.data_ptr<T>() + at);
  }
}

template <typename T>
void RopeSequence(const Tensors& t, const HeadShape& shape, const RopeTable& rope,
                  float norm_eps, const SequenceRows& sequence) {
  at::parallel_for(0, sequence.rows, kRowsPerTask, [&](int64_t first, int64_t last) {
    const int64_t half = shape.head_dim / 2;
    for (int64_t i = first; i < last; ++i) {
      const int64_t position = sequence.begin + i;
      const int64_t row = sequence.first_row + i;
      const RopeArgs args = {shape, rope.cos.const_data_ptr<float>() + row * half,
                             rope.sin.const_data_ptr<float>() + row * half, norm_eps};
      RopeRow<T>(t, args, row, sequence.blocks[position / t.kv.block_tokens()],
                 position % t.kv.block_tokens());
    }
  });
}

}  // namespace

at::Tensor RmsNorm(const at::Tensor& x, const at::Tensor& weight, float eps,
                   at::ScalarType out) {
  QUIRE_CHECK(x.scalar_type() == at::kFloat && x.dim() == 2 &&
              weight.size(0) == x.size(1));
  const int64_t width = x.size(1);
  if (out != at::kBFloat16 || !HasFastBFloat16() || width % 16 != 0) {
    return at::mul(x * at::rsqrt(at::mean(x * x, {1}, /*keepdim=*/true) + eps), weight)
        .to(out);
  }
  at::Tensor y = at::empty({x.size(0), width}, at::kBFloat16);
  at::parallel_for(0, x.size(0), kRowsPerTask, [&](int64_t first, int64_t last) {
    bf16::RmsNormRows(x.const_data_ptr<float>() + first * width,
                      weight.const_data_ptr<float>(), last - first, width, eps,
                      static_cast<uint16_t*>(y.data_ptr()) + first * width);
  });
  return y;
}

at::Tensor SiluMul(const at::Tensor& gate_up) {
  const int64_t width = gate_up.size(1) / 2;
  if (gate_up.scalar_type() != at::kBFloat16 || !HasFastBFloat16() || width % 16 != 0) {
    return at::mul(at::silu(gate_up.narrow(1, 0, width)),
                   gate_up.narrow(1, width, width));
  }
  at::Tensor y = at::empty({gate_up.size(0), width}, at::kBFloat16);
  const auto* const in = static_cast<const uint16_t*>(gate_up.const_data_ptr());
  at::parallel_for(0, gate_up.size(0), kRowsPerTask, [&](int64_t first, int64_t last) {
    bf16::SiluMulRows(in + first * 2 * width, last - first, width,
                      static_cast<uint16_t*>(y.data_ptr()) + first * width);
  });
  return y;
}

at::Tensor RopeAndStore(const at::Tensor& qkv, const HeadShape& shape,
                        const RopeTable& rope, const at::Tensor& q_norm,
                        const at::Tensor& k_norm, float norm_eps,
                        absl::Span<const SequenceRows> sequences, PagedKv& kv) {
  QUIRE_CHECK(qkv.scalar_type() == kv.k.scalar_type() && qkv.is_contiguous());
  at::Tensor q = at::empty(
      {shape.kv_heads, qkv.size(0), shape.query_heads / shape.kv_heads, shape.head_dim},
      qkv.options());
  const Tensors tensors = {qkv, q_norm, k_norm, q, kv};
  for (const SequenceRows& sequence : sequences) {
    if (qkv.scalar_type() == at::kBFloat16) {
      RopeSequence<at::BFloat16>(tensors, shape, rope, norm_eps, sequence);
    } else {
      RopeSequence<float>(tensors, shape, rope, norm_eps, sequence);
    }
  }
  return q;
}

}  // namespace quire::kernels

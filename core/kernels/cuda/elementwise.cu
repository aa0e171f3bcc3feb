#include <cmath>

#include "core/kernels/cuda/cuda_kernels.h"
#include "core/kernels/cuda/dependent_launch.cuh"
#include "core/kernels/cuda/warp.cuh"

// Kernels of a layer begin while the one before ends: in a step of few tokens what takes
// time is one launch after another.

namespace quire::kernels::cuda {
namespace {

constexpr int kThreads = 256;

unsigned Blocks(int64_t items, int64_t per_block) {
  return static_cast<unsigned>((items + per_block - 1) / per_block);
}

// First of all in kernels that are launched so.
__device__ void Begin() {
  LetTheNextBegin();
  WaitForTheOneBefore();
}

// Eight bfloat16 values, one 16-byte access (which nvcc makes of no struct of pairs).
struct alignas(16) Eight {
  __nv_bfloat162 pair[4];
};

__device__ Eight Load(const Bf16* x) {
  Eight e;
  *reinterpret_cast<uint4*>(&e) = *reinterpret_cast<const uint4*>(x);
  return e;
}
__device__ void Store(Bf16* x, const Eight& e) {
  *reinterpret_cast<uint4*>(x) = *reinterpret_cast<const uint4*>(&e);
}

__device__ void Widen(const Eight& e, float (&x)[8]) {
  for (int i = 0; i < 4; ++i) {
    const float2 pair = __bfloat1622float2(e.pair[i]);
    x[2 * i] = pair.x;
    x[2 * i + 1] = pair.y;
  }
}

__device__ Eight Narrow(const float (&x)[8]) {
  Eight e;
  for (int i = 0; i < 4; ++i) {
    e.pair[i] = __floats2bfloat162_rn(x[2 * i], x[2 * i + 1]);
  }
  return e;
}

__device__ void LoadF32(const float* from, float (&x)[8]) {
  const float4 low = reinterpret_cast<const float4*>(from)[0];
  const float4 high = reinterpret_cast<const float4*>(from)[1];
  x[0] = low.x, x[1] = low.y, x[2] = low.z, x[3] = low.w;
  x[4] = high.x, x[5] = high.y, x[6] = high.z, x[7] = high.w;
}

__device__ void StoreF32(float* to, const float (&x)[8]) {
  reinterpret_cast<float4*>(to)[0] = {x[0], x[1], x[2], x[3]};
  reinterpret_cast<float4*>(to)[1] = {x[4], x[5], x[6], x[7]};
}

// Every thread gets the sum; `shared` [kBlock / kWarp].
template <int kBlock = kThreads>
__device__ float BlockSum(float x, float* shared) {
  x = WarpSum(x);
  if (threadIdx.x % kWarp == 0) shared[threadIdx.x / kWarp] = x;
  __syncthreads();
  float sum = 0;
  for (int i = 0; i < kBlock / kWarp; ++i) sum += shared[i];
  return sum;
}

__global__ void EmbedKernel(const Bf16* table, const int32_t* tokens, int64_t hidden,
                            float* residual) {
  const Bf16* const from = table + static_cast<int64_t>(tokens[blockIdx.x]) * hidden;
  float* const to = residual + blockIdx.x * hidden;
  for (int64_t i = threadIdx.x * 8; i < hidden; i += kThreads * 8) {
    float x[8];
    Widen(Load(from + i), x);
    StoreF32(to + i, x);
  }
}

__global__ void AddKernel(float* residual, const Bf16* update, int64_t size) {
  Begin();
  const int64_t i = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * 8;
  if (i >= size) return;
  float x[8], y[8];
  LoadF32(residual + i, x);
  Widen(Load(update + i), y);
  for (int j = 0; j < 8; ++j) x[j] += y[j];
  StoreF32(residual + i, x);
}

// A block a row, of which a thread keeps kVectors of eight channels. The weight does not
// come from the kernel before.
template <int kVectors>
__global__ void RmsNormKernel(float* residual, const Bf16* update, const float* weight,
                              float eps, int64_t hidden, Bf16* out) {
  __shared__ float sums[kThreads / kWarp];
  LetTheNextBegin();
  const int64_t first = static_cast<int64_t>(blockIdx.x) * hidden;
  const auto channel = [](int v) { return (v * kThreads + threadIdx.x) * 8; };
  float w[kVectors][8], x[kVectors][8];
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
    if (channel(v) < hidden) LoadF32(weight + channel(v), w[v]);
  }
  WaitForTheOneBefore();
  Eight add[kVectors];
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
    if (channel(v) >= hidden) continue;
    LoadF32(residual + first + channel(v), x[v]);
    if (update != nullptr) add[v] = Load(update + first + channel(v));
  }
  float squares = 0;
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
    if (channel(v) >= hidden) continue;
    if (update != nullptr) {
      float y[8];
      Widen(add[v], y);
      for (int j = 0; j < 8; ++j) x[v][j] += y[j];
      StoreF32(residual + first + channel(v), x[v]);
    }
    for (int j = 0; j < 8; ++j) squares += x[v][j] * x[v][j];
  }
  const float mean = BlockSum(squares, sums) / static_cast<float>(hidden);
  const float inverse = rsqrtf(mean + eps);
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
    if (channel(v) >= hidden) continue;
    for (int j = 0; j < 8; ++j) x[v][j] *= inverse * w[v][j];
    Store(out + first + channel(v), Narrow(x[v]));
  }
}

__global__ void SiluKernel(const Bf16* gate_up, int64_t size, int64_t inner, Bf16* out) {
  Begin();
  const int64_t i = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * 8;
  if (i >= size) return;
  const Bf16* const gate = gate_up + i / inner * 2 * inner + i % inner;
  float g[8], u[8];
  Widen(Load(gate), g);
  Widen(Load(gate + inner), u);
  for (int j = 0; j < 8; ++j) g[j] = g[j] / (1 + expf(-g[j])) * u[j];
  Store(out + i, Narrow(g));
}

__global__ void RopeTableKernel(const int32_t* positions, const float* frequencies,
                                float factor, int64_t size, int64_t half, float* cos_out,
                                float* sin_out) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= size) return;
  // The angle is rounded to float32 as transformers rounds it.
  const float angle = static_cast<float>(positions[i / half]) * frequencies[i % half];
  double sine, cosine;
  sincos(static_cast<double>(angle), &sine, &cosine);
  cos_out[i] = static_cast<float>(cosine * factor);
  sin_out[i] = static_cast<float>(sine * factor);
}

// A warp a head. Lane i has the channels 2 i + 64 j and the ones D / 2 after them.
template <int kPairs>  // D / 128, rounded up: channel pairs of a lane, two channels each
__device__ void RopeHead(const RopeArgs& a, int64_t row, int head, int lane) {
  const int half = a.head_dim / 2;
  const int total = a.query_heads + 2 * a.kv_heads;
  const Bf16* const in = a.qkv + (row * total + head) * a.head_dim;
  const bool is_query = head < a.query_heads;
  const bool is_key = !is_query && head < a.query_heads + a.kv_heads;
  float2 low[kPairs], high[kPairs];
  for (int j = 0; j < kPairs; ++j) {
    const int i = 2 * lane + 64 * j;
    if (i >= half) continue;
    low[j] = __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(in + i));
    high[j] = __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(in + half + i));
  }
  const float* const norm = is_query ? a.q_norm : is_key ? a.k_norm : nullptr;
  if (norm != nullptr) {
    float squares = 0;
    for (int j = 0; j < kPairs; ++j) {
      if (2 * lane + 64 * j >= half) continue;
      squares += low[j].x * low[j].x + low[j].y * low[j].y + high[j].x * high[j].x +
                 high[j].y * high[j].y;
    }
    const float inverse =
        rsqrtf(WarpSum(squares) / static_cast<float>(a.head_dim) + a.norm_eps);
    for (int j = 0; j < kPairs; ++j) {
      const int i = 2 * lane + 64 * j;
      if (i >= half) continue;
      low[j].x *= inverse * norm[i];
      low[j].y *= inverse * norm[i + 1];
      high[j].x *= inverse * norm[half + i];
      high[j].y *= inverse * norm[half + i + 1];
    }
  }
  if (is_query || is_key) {
    for (int j = 0; j < kPairs; ++j) {
      const int i = 2 * lane + 64 * j;
      if (i >= half) continue;
      const float2 c = *reinterpret_cast<const float2*>(a.cos + row * half + i);
      const float2 s = *reinterpret_cast<const float2*>(a.sin + row * half + i);
      const float2 l = low[j], h = high[j];
      low[j] = {l.x * c.x - h.x * s.x, l.y * c.y - h.y * s.y};
      high[j] = {h.x * c.x + l.x * s.x, h.y * c.y + l.y * s.y};
    }
  }
  Bf16* out;
  if (is_query) {
    out = a.q + (row * a.query_heads + head) * a.head_dim;
  } else {
    const int kv_head = head - a.query_heads - (is_key ? 0 : a.kv_heads);
    const int64_t slot = a.slots[row];
    if (slot < 0) return;
    out =
        (is_key ? a.k : a.v) +
        ((slot / kPageTokens * a.kv_heads + kv_head) * kPageTokens + slot % kPageTokens) *
            a.head_dim;
  }
  for (int j = 0; j < kPairs; ++j) {
    const int i = 2 * lane + 64 * j;
    if (i >= half) continue;
    *reinterpret_cast<__nv_bfloat162*>(out + i) =
        __floats2bfloat162_rn(low[j].x, low[j].y);
    *reinterpret_cast<__nv_bfloat162*>(out + half + i) =
        __floats2bfloat162_rn(high[j].x, high[j].y);
  }
}

template <int kPairs>
__global__ void RopeKernel(RopeArgs a) {
  Begin();
  const int heads = a.query_heads + 2 * a.kv_heads;
  const int64_t i =
      static_cast<int64_t>(blockIdx.x) * (kThreads / kWarp) + threadIdx.x / kWarp;
  if (i >= a.rows * heads) return;
  RopeHead<kPairs>(a, i / heads, static_cast<int>(i % heads),
                   static_cast<int>(threadIdx.x % kWarp));
}

__global__ void GatherKernel(const Bf16* cache, const int32_t* pages, int64_t tokens,
                             int32_t kv_heads, int32_t head_dim, Bf16* out) {
  const int64_t vectors = tokens * head_dim / 8;  // of a head
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= vectors) return;
  const int64_t token = i * 8 / head_dim, channel = i * 8 % head_dim;
  const int64_t head = blockIdx.y;
  const int64_t page = pages[token / kPageTokens];
  Store(out + head * tokens * head_dim + i * 8,
        Load(cache +
             ((page * kv_heads + head) * kPageTokens + token % kPageTokens) * head_dim +
             channel));
}

__global__ void CopyKernel(Bf16* cache, int64_t from, int64_t to, int64_t values) {
  const int64_t i = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * 8;
  if (i < values) Store(cache + to * values + i, Load(cache + from * values + i));
}

// A warp a row of a head.
__global__ void MergeKernel(const __grid_constant__ MergeArgs m) {
  const int64_t i =
      static_cast<int64_t>(blockIdx.x) * (kThreads / kWarp) + threadIdx.x / kWarp;
  if (i >= m.rows * m.query_heads) return;
  const int share = m.query_heads / m.kv_heads;
  const int64_t row = i / m.query_heads;
  const int head = static_cast<int>(i % m.query_heads);
  const auto lse = [&](const AttentionPart& part) {
    return part.lse[row * part.lse_row + head / share * part.lse_head +
                    head % share * part.lse_share];
  };
  float high = -INFINITY;
  for (int p = 0; p < m.count; ++p) high = fmaxf(high, lse(m.parts[p]));
  for (int64_t c = threadIdx.x % kWarp * 8; c < m.head_dim; c += kWarp * 8) {
    float sum = 0, values[8] = {};
    for (int p = 0; p < m.count; ++p) {
      const AttentionPart& part = m.parts[p];
      const float log = lse(part);
      if (log == -INFINITY) continue;  // it may hold anything
      const float weight = expf(log - high);
      float x[8];
      Widen(Load(part.out + row * part.out_row + head / share * part.out_head +
                 head % share * m.head_dim + c),
            x);
      sum += weight;
      for (int j = 0; j < 8; ++j) values[j] += weight * x[j];
    }
    for (int j = 0; j < 8; ++j) values[j] = sum > 0 ? values[j] / sum : 0;
    Store(m.out + i * m.head_dim + c, Narrow(values));
  }
}

struct Best {
  float logit;
  int32_t token;
};
__device__ Best Better(const Best& a, const Best& b) {
  if (a.logit != b.logit) return a.logit > b.logit ? a : b;
  return a.token < b.token ? a : b;
}

// A block a row, which is long: a thread has several values on their way.
constexpr int kRowThreads = 1024;
constexpr int kTogether = 8;

// use(value, index) of the thread's values of a row, in ascending order.
template <typename Use>
__device__ void ForEach(const float* row, int64_t size, const Use& use) {
  for (int64_t first = threadIdx.x; first < size; first += kRowThreads * kTogether) {
    float x[kTogether];
#pragma unroll
    for (int j = 0; j < kTogether; ++j) {
      const int64_t i = first + j * kRowThreads;
      x[j] = i < size ? row[i] : -INFINITY;
    }
#pragma unroll
    for (int j = 0; j < kTogether; ++j) {
      // What is no number counts as nothing.
      use(fmaxf(x[j], -INFINITY), static_cast<int32_t>(first + j * kRowThreads));
    }
  }
}

__global__ void __launch_bounds__(kRowThreads) SummarizeKernel(RowSummary s) {
  __shared__ float sums[kRowThreads / kWarp];
  __shared__ Best bests[kRowThreads / kWarp];
  Begin();
  const float* const row = s.logits + blockIdx.x * s.vocab;
  Best best = {-INFINITY, INT32_MAX};
  ForEach(row, s.vocab, [&best](float x, int32_t i) {
    if (x > -INFINITY) best = Better(best, {x, i});
  });
  for (int step = kWarp / 2; step > 0; step /= 2) {
    best = Better(best, {__shfl_xor_sync(kAll, best.logit, step),
                         __shfl_xor_sync(kAll, best.token, step)});
  }
  if (threadIdx.x % kWarp == 0) bests[threadIdx.x / kWarp] = best;
  __syncthreads();
  for (int i = 0; i < kRowThreads / kWarp; ++i) best = Better(best, bests[i]);
  const int32_t target = s.targets == nullptr ? -1 : s.targets[blockIdx.x];
  const float target_logit = target >= 0 ? row[target] : 0;
  float sum = 0, larger = 0;  // counts below 2^24 are exact
  ForEach(row, s.vocab, [&](float x, int32_t) {
    sum += expf(x - best.logit);
    larger += x > target_logit ? 1.0f : 0.0f;
  });
  sum = BlockSum<kRowThreads>(sum, sums);
  __syncthreads();
  larger = BlockSum<kRowThreads>(larger, sums);
  if (threadIdx.x != 0) return;
  s.log_sum[blockIdx.x] = best.logit + logf(sum);
  s.best[blockIdx.x] = best.token == INT32_MAX ? 0 : best.token;
  s.best_logit[blockIdx.x] = best.logit;
  if (s.targets == nullptr) return;
  s.target_logit[blockIdx.x] = target_logit;
  s.larger[blockIdx.x] = static_cast<int32_t>(larger);
}

}  // namespace

cudaError_t EmbedRows(const Bf16* table, const int32_t* tokens, int64_t rows,
                      int64_t hidden, float* residual, cudaStream_t stream) {
  EmbedKernel<<<static_cast<unsigned>(rows), kThreads, 0, stream>>>(table, tokens, hidden,
                                                                    residual);
  return cudaGetLastError();
}

cudaError_t AddRmsNorm(float* residual, const Bf16* update, const float* weight,
                       float eps, int64_t rows, int64_t hidden, Bf16* out,
                       cudaStream_t stream) {
  const auto blocks = static_cast<unsigned>(rows);
  const auto launch = [&](auto kernel) {
    return LaunchDependent(kernel, blocks, kThreads, 0, stream, residual, update, weight,
                           eps, hidden, out);
  };
  constexpr int64_t kChannels = 8 * kThreads;
  if (hidden <= kChannels) return launch(RmsNormKernel<1>);
  if (hidden <= 2 * kChannels) return launch(RmsNormKernel<2>);
  if (hidden <= 4 * kChannels) return launch(RmsNormKernel<4>);
  static_assert(kMaxHidden == 8 * kChannels);
  return hidden <= kMaxHidden ? launch(RmsNormKernel<8>) : cudaErrorInvalidValue;
}

cudaError_t AddRows(float* residual, const Bf16* update, int64_t size,
                    cudaStream_t stream) {
  return LaunchDependent(AddKernel, Blocks(size, kThreads * 8), kThreads, 0, stream,
                         residual, update, size);
}

cudaError_t SiluMul(const Bf16* gate_up, int64_t rows, int64_t inner, Bf16* out,
                    cudaStream_t stream) {
  return LaunchDependent(SiluKernel, Blocks(rows * inner, kThreads * 8), kThreads, 0,
                         stream, gate_up, rows * inner, inner, out);
}

cudaError_t RopeTable(const int32_t* positions, const float* inverse_frequencies,
                      float factor, int64_t rows, int64_t half, float* cos, float* sin,
                      cudaStream_t stream) {
  RopeTableKernel<<<Blocks(rows * half, kThreads), kThreads, 0, stream>>>(
      positions, inverse_frequencies, factor, rows * half, half, cos, sin);
  return cudaGetLastError();
}

cudaError_t RopeAndStore(const RopeArgs& args, cudaStream_t stream) {
  const int64_t heads = args.query_heads + 2 * args.kv_heads;
  const unsigned blocks = Blocks(args.rows * heads, kThreads / kWarp);
  return LaunchDependent(args.head_dim <= 128 ? RopeKernel<1> : RopeKernel<2>, blocks,
                         kThreads, 0, stream, args);
}

cudaError_t CopyBlock(Bf16* cache, int64_t from, int64_t to, int64_t block_values,
                      cudaStream_t stream) {
  CopyKernel<<<Blocks(block_values, kThreads * 8), kThreads, 0, stream>>>(cache, from, to,
                                                                          block_values);
  return cudaGetLastError();
}

cudaError_t GatherPages(const Bf16* cache, const int32_t* pages, int64_t tokens,
                        int32_t kv_heads, int32_t head_dim, Bf16* out,
                        cudaStream_t stream) {
  const dim3 grid(Blocks(tokens * head_dim, kThreads * 8), kv_heads);
  GatherKernel<<<grid, kThreads, 0, stream>>>(cache, pages, tokens, kv_heads, head_dim,
                                              out);
  return cudaGetLastError();
}

cudaError_t MergeAttention(const MergeArgs& args, cudaStream_t stream) {
  if (args.count < 1 || args.count > kMaxAttentionParts) return cudaErrorInvalidValue;
  MergeKernel<<<Blocks(args.rows * args.query_heads, kThreads / kWarp), kThreads, 0,
                stream>>>(args);
  return cudaGetLastError();
}

cudaError_t SummarizeRows(const RowSummary& summary, cudaStream_t stream) {
  return LaunchDependent(SummarizeKernel, static_cast<unsigned>(summary.rows),
                         kRowThreads, 0, stream, summary);
}

}  // namespace quire::kernels::cuda

#pragma once

#include "core/kernels/cuda/dependent_launch.cuh"
#include "core/kernels/cuda/refined_workspace.cuh"

// The second launch of RefinedDecode: every far key's score by the index, and the sum of
// a block's part of each head.
namespace quire::kernels::cuda {

// d [16, 8] += a [16, 32] b [32, 8], a unsigned and b signed bytes.
__device__ inline void MultiplyAddBytes(int (&d)[4], const uint32_t (&a)[4], uint32_t b0,
                                        uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 "
      "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
      : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// A head's query, quantised symmetrically to bytes: lane l holds channels 4 c + i and
// 4 c + i + D / 2, c = 4 t + l % 4, of head l / 4. And as it is, for products with means.
template <int kDim>
struct IndexQuery {
  uint32_t low[kDim / 32], high[kDim / 32];
  uint32_t exact[kDim / 16][2];  // of head l / 4, channels 16 d + 8 i + 2 (l % 4)
  float step;                    // of the quantisation
  int start;                     // -8 times the sum of the bytes

  __device__ IndexQuery(const Bf16* queries, int share) {
    const int lane = threadIdx.x % kWarp, head = lane / 4;
    const Bf16* const query = queries + head * kDim;
    const auto pair = [&](int channel) {
      return head < share ? *reinterpret_cast<const uint32_t*>(query + channel) : 0u;
    };
#pragma unroll
    for (int d = 0; d < kDim / 16; ++d) {
      exact[d][0] = pair(16 * d + 2 * (lane % 4));
      exact[d][1] = pair(16 * d + 8 + 2 * (lane % 4));
    }
    const auto value = [&](int t, int i) {
      const int channel = 4 * (4 * t + lane % 4) + i % 4 + i / 4 * (kDim / 2);
      return head < share ? __bfloat162float(query[channel]) : 0.0f;
    };
    float largest = 0;
    for (int t = 0; t < kDim / 32; ++t) {
      for (int i = 0; i < 8; ++i) largest = fmaxf(largest, fabsf(value(t, i)));
    }
    for (int s = 1; s < 4; s *= 2) {
      largest = fmaxf(largest, __shfl_xor_sync(kAll, largest, s));
    }
    step = fmaxf(largest, 1e-20f) / 127;
    const float inverse = 1 / step;
    int sum = 0;
#pragma unroll
    for (int t = 0; t < kDim / 32; ++t) {
      uint32_t words[2] = {};
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const int byte = __float2int_rn(value(t, i) * inverse);
        sum += byte;
        words[i / 4] |= (static_cast<uint32_t>(byte) & 255u) << (8 * (i % 4));
      }
      low[t] = words[0];
      high[t] = words[1];
    }
    for (int s = 1; s < 4; s *= 2) sum += __shfl_xor_sync(kAll, sum, s);
    start = -8 * sum;
  }

  // With a page's mean [D]: of heads 2 (l % 4) and the next. The mean is row 0 of a tile.
  __device__ void Dot(const char* mean, float (&dot)[2]) const {
    const int lane = threadIdx.x % kWarp;
    float sum[4] = {};
#pragma unroll
    for (int d = 0; d < kDim / 16; ++d) {
      Fragment row = {};
      if (lane < 4) {
        row.x[0] = *reinterpret_cast<const uint32_t*>(mean + 32 * d + 4 * lane);
        row.x[2] = *reinterpret_cast<const uint32_t*>(mean + 32 * d + 16 + 4 * lane);
      }
      MultiplyAdd(sum, row, exact[d][0], exact[d][1]);
    }
    dot[0] = __shfl_sync(kAll, sum[0], lane % 4);
    dot[1] = __shfl_sync(kAll, sum[1], lane % 4);
  }
};

// 2^x of two halves.
__device__ inline __half2 Exp2(__half2 x) {
  uint32_t y;
  asm("ex2.approx.f16x2 %0, %1;\n" : "=r"(y) : "r"(*reinterpret_cast<uint32_t*>(&x)));
  return *reinterpret_cast<__half2*>(&y);
}

// More warps than read keys: a page of the index costs some 400 instructions.
constexpr int kScoreWarps = 16;
constexpr int kScoreThreads = kScoreWarps * kWarp;

template <int kDim>
struct IndexRing {
  static constexpr int kStages = kDim == 128 ? 3 : 5;
  static constexpr int kPageBytes = IndexPageBytes(kDim);
  static constexpr int kBytes = kPageBytes * kStages;
};

// A warp scores every kScoreWarps-th page of a segment.
template <int kDim>
class Scorer {
 public:
  __device__ Scorer(const RefinedDecodeArgs& a, const Segment& s, char* ring)
      : a_(a),
        s_(s),
        ring_(ring),
        lane_(threadIdx.x % kWarp),
        query_(Queries(a, s), Share(a)),
        row_(ScoreRow(Share(a))) {
    // A lane's results are of heads 2 (l % 4) and the next.
    to_log2_ = a.near.scale * kLog2E;
    for (int h = 0; h < 2; ++h) {
      const int from = (2 * (lane_ % 4) + h) * 4;
      start_[h] = __shfl_sync(kAll, query_.start, from);
      step_[h] = __shfl_sync(kAll, query_.step, from) * to_log2_;
    }
  }

  __device__ void Run(__half* scores, Part (&part)[2]) {
    const int first = s_.first + static_cast<int>(threadIdx.x) / kWarp;
    int fetch = first;
    int block = BlockOf(fetch);
    for (int stage = 0; stage < IndexRing<kDim>::kStages - 1; ++stage) {
      Fetch(fetch, block, stage);
      fetch += kScoreWarps;
      block = BlockOf(fetch);
    }
    int stage = 0;
    for (int page = first; page < s_.last; page += kScoreWarps) {
      WaitForCopies<IndexRing<kDim>::kStages - 2>();
      __syncwarp();
      Fetch(fetch, block, stage == 0 ? IndexRing<kDim>::kStages - 1 : stage - 1);
      fetch += kScoreWarps;
      block = BlockOf(fetch);
      Score(ring_ + stage * IndexRing<kDim>::kPageBytes,
            scores +
                static_cast<int64_t>(s_.begin + page) * kPageTokens * ScoreRow(Share(a_)),
            part);
      stage = stage + 1 == IndexRing<kDim>::kStages ? 0 : stage + 1;
    }
    WaitForCopies<0>();
  }

 private:
  // Read an iteration before it is needed.
  __device__ int BlockOf(int page) const {
    return page < s_.last ? a_.far_pages[a_.first_far_page[s_.sequence] + page] : 0;
  }

  __device__ void Fetch(int page, int64_t block, int stage) {
    if (page < s_.last) {
      const uint8_t* const from =
          a_.index + (block * a_.near.kv_heads + s_.head) * IndexRing<kDim>::kPageBytes;
      const uint32_t to = SharedAddress(ring_ + stage * IndexRing<kDim>::kPageBytes);
      for (int i = lane_ * 16; i < IndexRing<kDim>::kPageBytes; i += kWarp * 16) {
        CopyAsync16(to + i, from + i, true);
      }
    }
    CommitCopies();
  }

  // Of the lane's keys 8 h + l / 4 of each tile v of 16 and its two heads.
  __device__ void Score(const char* page, __half* scores, Part (&part)[2]) {
    float mean[2];
    query_.Dot(page + kPageTokens * kDim / 2 + kPageTokens * 4, mean);
    mean[0] *= to_log2_;
    mean[1] *= to_log2_;
    const auto* const four =
        reinterpret_cast<const float4*>(page + kPageTokens * kDim / 2 + lane_ / 4 * 32);
    const float4 scale[2] = {four[0], four[1]};
    __half2 score[4][2];
#pragma unroll
    for (int v = 0; v < 4; ++v) {
      int dot[4] = {start_[0], start_[1], start_[0], start_[1]};
#pragma unroll
      for (int j = 0; j < kDim / 64; ++j) {
        const uint4 words = *reinterpret_cast<const uint4*>(
            page + ((v * (kDim / 64) + j) * kWarp + lane_) * 16);
        Multiply(dot, words.x, words.y, 2 * j);
        Multiply(dot, words.z, words.w, 2 * j + 1);
      }
      const float4& s = scale[v / 2];
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const float of_key = v % 2 == 0 ? (h == 0 ? s.x : s.y) : (h == 0 ? s.z : s.w);
        score[v][h] = __floats2half2_rn(
            fmaf(static_cast<float>(dot[2 * h]), of_key * step_[0], mean[0]),
            fmaf(static_cast<float>(dot[2 * h + 1]), of_key * step_[1], mean[1]));
      }
    }
    Add(score, part);
    if (2 * (lane_ % 4) >= row_) return;
    __half* const to = scores + lane_ / 4 * row_ + 2 * (lane_ % 4);
#pragma unroll
    for (int v = 0; v < 4; ++v) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        *reinterpret_cast<__half2*>(to + (16 * v + 8 * h) * row_) = score[v][h];
      }
    }
  }

  // To the softmax's sums.
  __device__ void Add(const __half2 (&score)[4][2], Part (&part)[2]) const {
    __half2 high = score[0][0];
#pragma unroll
    for (int i = 1; i < 8; ++i) high = __hmax2(high, score[i / 2][i % 2]);
    __half2 sum = Exp2(__hsub2(score[0][0], high));
#pragma unroll
    for (int i = 1; i < 8; ++i) {
      sum = __hadd2(sum, Exp2(__hsub2(score[i / 2][i % 2], high)));
    }
    const float2 highs = __half22float2(high), sums = __half22float2(sum);
    part[0] = Join(part[0], {highs.x, sums.x, 0});
    part[1] = Join(part[1], {highs.y, sums.y, 0});
  }

  __device__ void Multiply(int (&dot)[4], uint32_t top, uint32_t bottom, int t) const {
    constexpr uint32_t kLow = 0x0f0f0f0fu;
    const uint32_t codes[4] = {top & kLow, bottom & kLow, top >> 4 & kLow,
                               bottom >> 4 & kLow};
    MultiplyAddBytes(dot, codes, query_.low[t], query_.high[t]);
  }

  const RefinedDecodeArgs& a_;
  const Segment& s_;
  char* const ring_;
  const int lane_;
  const IndexQuery<kDim> query_;
  const int row_;  // ScoreRow
  int start_[2];
  float step_[2];
  float to_log2_;
};

// The lanes' and warps' sums become the block's: `parts` [R].
__device__ inline void DeliverSums(const Part (&part)[2], int share, Part* parts) {
  __shared__ Part warps[kScoreWarps][8];
  const int lane = threadIdx.x % kWarp;
  for (int h = 0; h < 2; ++h) {
    const float max = MaxOverKeys(part[h].max);
    const float sum =
        SumOverKeys(part[h].sum == 0 ? 0 : part[h].sum * exp2f(part[h].max - max));
    if (lane < 4) warps[threadIdx.x / kWarp][2 * lane + h] = {max, sum, 0};
  }
  __syncthreads();
  if (static_cast<int>(threadIdx.x) < share) {
    Part whole;
    for (int w = 0; w < kScoreWarps; ++w) whole = Join(whole, warps[w][threadIdx.x]);
    parts[threadIdx.x] = whole;
  }
  __syncthreads();
}

template <int kDim>
__global__ void __launch_bounds__(kScoreThreads, 1) ScoreKernel(RefinedDecodeArgs a) {
  LetTheNextBegin();
  extern __shared__ __align__(128) char shared[];
  char* const ring = shared + threadIdx.x / kWarp * IndexRing<kDim>::kBytes;
  const WorkLine line(a.first_far_page, a.near.sequences, a.near.kv_heads);
  const RefinedWorkspace work = LayRefined(a);
  for (int unit = line.begin; unit < line.end;) {
    const Segment segment = line.At(unit);
    Part part[2];
    Scorer<kDim>(a, segment, ring).Run(work.scores, part);
    DeliverSums(part, Share(a), work.far_sums + line.Slot(segment) * Share(a));
    unit += segment.last - segment.first;
  }
  WaitForTheOneBefore();  // the reader needs what both of us wrote
}

}  // namespace quire::kernels::cuda

#pragma once

#include <cmath>

#include "core/kernels/cuda/mma.cuh"
#include "core/kernels/cuda/warp.cuh"

// One query row's attention over slices of kSlice keys, a warp at a time; the parts of it
// that decode kernels share. Scores are computed as K Q^T: keys are the 16 rows of a
// tensor-core tile and query heads its 8 columns, so that R <= 8 heads fill it; values
// likewise as V^T P^T.
namespace quire::kernels::cuda {

inline constexpr int kWarps = 8;
inline constexpr int kThreads = kWarp * kWarps;
inline constexpr int kSlice = 16;

// Slices of K and V in a warp's shared memory, 16-byte chunks swizzled by their row. So
// many that about 130 KB are under way for a multiprocessor.
template <int kDim>
struct Ring {
  static constexpr int kStages = kDim == 128 ? 3 : 6;
  static constexpr int kSideBytes = kSlice * kDim * 2;  // K or V of a slice
  static constexpr int kStageBytes = 2 * kSideBytes;
  static constexpr int kBytes = kStageBytes * kStages;

  // The address of a 16-byte chunk of a row of K or V.
  __device__ static uint32_t Chunk(uint32_t side, int row, int chunk) {
    return side + row * kDim * 2 + (chunk ^ (row & 7)) * 16;
  }
};

// Of a head's softmax over some keys: the largest score in units of log2, and sums of
// 2^(score - max): of all, and of the keys that were read for certain.
struct Part {
  float max = -INFINITY;
  float sum = 0;
  float certain = 0;
};

// What a warp has so far. Lane l: heads 2 (l % 4) and the next of each tile of 8;
// channels 16 t + l / 4 and 8 after.
template <int kDim, int kTiles>
struct Accumulator {
  Part part[kTiles][2];  // of this lane's keys, but for max
  float values[kTiles][kDim / 16][4] = {};
};

__device__ inline float MaxOverKeys(float x) {
  for (int step = 4; step < kWarp; step *= 2)
    x = fmaxf(x, __shfl_xor_sync(kAll, x, step));
  return x;
}
__device__ inline float SumOverKeys(float x) {
  for (int step = 4; step < kWarp; step *= 2) x += __shfl_xor_sync(kAll, x, step);
  return x;
}

template <int kDim, int kTiles>
class Tile {
 public:
  __device__ Tile() {}  // of nothing
  // queries [share, kDim]
  __device__ Tile(const __nv_bfloat16* queries, int share, float scale)
      : lane_(FromHere(threadIdx.x % kWarp)), to_log2_(scale * kLog2E) {
    for (int t = 0; t < kTiles; ++t) {
      const int head = 8 * t + lane_ / 4;
      for (int d = 0; d < kDim / 16; ++d) {
        for (int i = 0; i < 2; ++i) {
          const int channel = 16 * d + 8 * i + 2 * (lane_ % 4);
          queries_[t][d][i] =
              head < share
                  ? *reinterpret_cast<const uint32_t*>(queries + head * kDim + channel)
                  : 0;
        }
      }
    }
  }

  // bias(row): what is added to the score of the slice's key `row`, in units of log2;
  // -infinity: there is no such key. A key with a bias above 0 was not read for certain.
  // At least one key is there.
  template <typename Bias>
  __device__ void Attend(uint32_t stage, Bias bias,
                         Accumulator<kDim, kTiles>& acc) const {
    float scores[kTiles][4] = {};
    const int part = lane_ / 8, part_row = lane_ % 8;
#pragma unroll
    for (int d = 0; d < kDim / 16; ++d) {
      const Fragment keys =
          LoadMatrix(Ring<kDim>::Chunk(stage, part_row + part % 2 * 8, 2 * d + part / 2));
      for (int t = 0; t < kTiles; ++t) {
        MultiplyAdd(scores[t], keys, queries_[t][d][0], queries_[t][d][1]);
      }
    }
    const float biases[2] = {bias(lane_ / 4), bias(lane_ / 4 + 8)};
    uint32_t weights[kTiles][2];
    for (int t = 0; t < kTiles; ++t) Soften(biases, scores[t], t, weights[t], acc);
#pragma unroll
    for (int d = 0; d < kDim / 16; ++d) {
      const Fragment values = LoadTransposed(Ring<kDim>::Chunk(
          stage + Ring<kDim>::kSideBytes, part_row + part / 2 * 8, 2 * d + part % 2));
      for (int t = 0; t < kTiles; ++t) {
        MultiplyAdd(acc.values[t][d], values, weights[t][0], weights[t][1]);
      }
    }
  }

 private:
  // Scores of 16 keys and 8 heads become the weights of their values.
  __device__ void Soften(const float (&bias)[2], float (&score)[4], int t,
                         uint32_t (&weights)[2], Accumulator<kDim, kTiles>& acc) const {
    for (int i = 0; i < 4; ++i) score[i] = score[i] * to_log2_ + bias[i / 2];
    float high[2];
    bool grew = false;
    for (int h = 0; h < 2; ++h) {
      high[h] = MaxOverKeys(fmaxf(score[h], score[h + 2]));
      grew |= high[h] > acc.part[t][h].max;
    }
    if (__any_sync(kAll, grew)) Rescale(high, t, acc);
    for (int i = 0; i < 4; ++i) {
      Part& part = acc.part[t][i % 2];
      score[i] = exp2f(score[i] - part.max);
      part.sum += score[i];
      part.certain += bias[i / 2] > 0 ? 0 : score[i];
    }
    weights[0] = Transpose8x8(PackBf16(score[0], score[1]));
    weights[1] = Transpose8x8(PackBf16(score[2], score[3]));
  }

  __device__ void Rescale(const float (&high)[2], int t,
                          Accumulator<kDim, kTiles>& acc) const {
    for (int h = 0; h < 2; ++h) {
      Part& part = acc.part[t][h];
      const float max = fmaxf(part.max, high[h]);
      const float factor = exp2f(part.max - max);
      part.max = max;
      part.sum *= factor;
      part.certain *= factor;
      for (int d = 0; d < kDim / 16; ++d) {
        acc.values[t][d][h] *= factor;
        acc.values[t][d][h + 2] *= factor;
      }
    }
  }

  int lane_;
  float to_log2_;
  uint32_t queries_[kTiles][kDim / 16][2];
};

// The warps' results of a segment, in the memory that the rings had.
template <int kDim, int kTiles>
struct Results {
  Part parts[kWarps][8 * kTiles];
  float values[kWarps][8 * kTiles][kDim];

  // Of all warps: a head's part, and one channel of its values.
  __device__ float Sum(int head, int channel, Part& part) const {
    for (int w = 0; w < kWarps; ++w) part = Join(part, parts[w][head]);
    float sum = 0;
    for (int w = 0; w < kWarps; ++w) {
      const Part& its = parts[w][head];
      if (its.sum > 0) sum += exp2f(its.max - part.max) * values[w][head][channel];
    }
    return sum;
  }

  __device__ void Put(const Accumulator<kDim, kTiles>& acc) {
    const int warp = static_cast<int>(threadIdx.x) / kWarp;
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    for (int t = 0; t < kTiles; ++t) {
      for (int h = 0; h < 2; ++h) {
        const int head = 8 * t + 2 * (lane % 4) + h;
        const Part& part = acc.part[t][h];
        const float sum = SumOverKeys(part.sum), certain = SumOverKeys(part.certain);
        if (lane < 4) parts[warp][head] = {part.max, sum, certain};
        for (int d = 0; d < kDim / 16; ++d) {
          values[warp][head][16 * d + lane / 4] = acc.values[t][d][h];
          values[warp][head][16 * d + lane / 4 + 8] = acc.values[t][d][h + 2];
        }
      }
    }
  }
};

// Two parts of a softmax become one; a part without keys has no sum.
__device__ inline Part Join(const Part& a, const Part& b) {
  const float max = fmaxf(fmaxf(a.max, b.max), -1e30f);  // a number, whatever they are
  const float fa = FastExp2(a.max - max), fb = FastExp2(b.max - max);
  return {max, a.sum * fa + b.sum * fb, a.certain * fa + b.certain * fb};
}
// Of all lanes.
__device__ inline Part JoinLanes(Part part) {
  Part whole;
  whole.max = fmaxf(WarpMax(part.max), -1e30f);
  const float factor = FastExp2(part.max - whole.max);
  whole.sum = WarpSum(part.sum * factor);
  whole.certain = WarpSum(part.certain * factor);
  return whole;
}

// Partial results of heads, outside a block: parts [.., R], values [.., R, D].
struct PartialRows {
  Part* parts = nullptr;
  float* values = nullptr;
};

// Sums of a head's parts by a block: loads of all parts are under way together. Every
// thread calls it; `memory` holds share parts and count * share numbers. part(p, r):
// where part p of head r comes from. Afterwards `whole` has the share heads, and weights
// [count, share] what each part's values count.
struct MergeMemory {
  Part* whole;     // [share]
  float* weights;  // [count, share]
};
template <typename PartOf>
__device__ MergeMemory JoinParts(PartOf part_of, int count, int share, void* memory) {
  MergeMemory m = {static_cast<Part*>(memory),
                   reinterpret_cast<float*>(static_cast<Part*>(memory) + share)};
  const int lane = threadIdx.x % kWarp;
  const int warps = static_cast<int>(blockDim.x) / kWarp;
#pragma unroll 1
  for (int r = static_cast<int>(threadIdx.x) / kWarp; r < share; r += warps) {
    const Part first = lane < count ? part_of(lane, r) : Part();
    Part whole = first;
#pragma unroll 1
    for (int p = lane + kWarp; p < count; p += kWarp) whole = Join(whole, part_of(p, r));
    whole = JoinLanes(whole);
    if (lane == 0) m.whole[r] = whole;
#pragma unroll 1
    for (int p = lane; p < count; p += kWarp) {
      const Part part = p == lane ? first : part_of(p, r);
      m.weights[p * share + r] = part.sum == 0 ? 0 : FastExp2(part.max - whole.max);
    }
  }
  __syncthreads();
  return m;
}

// An element of head r of the weighted sum of parts' values; value(p): part p's.
template <typename Value>
__device__ float SumValues(const MergeMemory& m, int count, int share, int r,
                           Value value) {
  constexpr int kTogether = 16;
  float sum = 0;
  for (int first = 0; first < count; first += kTogether) {
    float values[kTogether];
#pragma unroll
    for (int i = 0; i < kTogether; ++i) {
      values[i] = first + i < count ? value(first + i) : 0;
    }
#pragma unroll
    for (int i = 0; i < kTogether; ++i) {
      if (first + i >= count) break;
      // What no key went into may hold anything.
      const float weight = m.weights[(first + i) * share + r];
      sum += weight == 0 ? 0 : weight * values[i];
    }
  }
  return sum;
}

}  // namespace quire::kernels::cuda

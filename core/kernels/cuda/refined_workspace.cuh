#pragma once

#include <cuda_fp16.h>

#include "core/kernels/cuda/decode_tile.cuh"
#include "core/kernels/cuda/refined.h"
#include "core/kernels/cuda/work_line.cuh"

// What the launches of RefinedDecode hand to each other.
namespace quire::kernels::cuda {

__host__ __device__ inline int64_t ScoreRow(int64_t share) { return (share + 3) / 4 * 4; }

struct RefinedWorkspace {
  PartialRows near;     // [sequences, H]
  int* arrived;         // [sequences * G]
  Part* far_sums;       // [slots, R] of the index's scores
  PartialRows partial;  // [slots, R] of what was drawn
  __half* scores;       // [far pages, G, 64, ScoreRow]
};

struct WorkspaceSizes {
  int64_t near_parts, near_values, arrived, sums, parts, values, scores;
  int64_t total;
};

__host__ __device__ inline WorkspaceSizes SizesOf(int64_t sequences, int64_t query_heads,
                                                  int64_t kv_heads, int64_t dim,
                                                  int64_t blocks, int64_t far_pages) {
  const int64_t share = query_heads / kv_heads;
  const int64_t slots = Slots(blocks, sequences, kv_heads);
  const int64_t part = sizeof(Part), value = sizeof(float) * dim;
  WorkspaceSizes s;
  s.arrived = Align(sequences * kv_heads * 4);
  s.near_parts = Align(sequences * query_heads * part);
  s.near_values = Align(sequences * query_heads * value);
  s.sums = Align(slots * share * part);
  s.parts = Align(slots * share * part);
  s.values = Align(slots * share * value);
  s.scores = Align(far_pages * kv_heads * kPageTokens * ScoreRow(share) * 2);
  s.total =
      s.arrived + s.near_parts + s.near_values + s.sums + s.parts + s.values + s.scores;
  return s;
}

// The counters come first: their place, which must be zero, does not depend on the rest.
__host__ __device__ inline RefinedWorkspace LayRefined(const RefinedDecodeArgs& a) {
  const DecodeArgs& n = a.near;
  const WorkspaceSizes s = SizesOf(n.max_sequences, n.query_heads, n.kv_heads, n.head_dim,
                                   n.blocks, a.far_page_count);
  char* at = static_cast<char*>(a.workspace);
  const auto take = [&](int64_t bytes) {
    char* const taken = at;
    at += bytes;
    return taken;
  };
  RefinedWorkspace w;
  w.arrived = reinterpret_cast<int*>(take(s.arrived));
  w.near.parts = reinterpret_cast<Part*>(take(s.near_parts));
  w.near.values = reinterpret_cast<float*>(take(s.near_values));
  w.far_sums = reinterpret_cast<Part*>(take(s.sums));
  w.partial.parts = reinterpret_cast<Part*>(take(s.parts));
  w.partial.values = reinterpret_cast<float*>(take(s.values));
  w.scores = reinterpret_cast<__half*>(take(s.scores));
  return w;
}

__device__ inline const Bf16* Queries(const RefinedDecodeArgs& a, const Segment& s) {
  const DecodeArgs& n = a.near;
  const int share = n.query_heads / n.kv_heads;
  return n.q +
         (static_cast<int64_t>(n.rows[s.sequence]) * n.query_heads + s.head * share) *
             n.head_dim;
}

__device__ inline int Share(const RefinedDecodeArgs& a) {
  return a.near.query_heads / a.near.kv_heads;
}

}  // namespace quire::kernels::cuda

#pragma once

#include "core/kernels/cuda/refined_prefill.h"
#include "core/kernels/cuda/tuning.h"
#include "core/kernels/cuda/work_line.cuh"

// What the launches of RefinedPrefill hand to each other.
namespace quire::kernels::cuda {

inline constexpr int kLists = 4;  // of a tile, one for each warp that chooses

// A chosen key.
struct Listed {
  int32_t slot;  // in the cache, of one head: block * kPageTokens + place in it
  float bias;    // log2 of one over its probability
};

// Scores are in units of 1/8 of log2: so the queries, with the scale in them, lie well
// inside the range of e4m3, and the scores inside that of float16.
inline constexpr float kScoreUnits = 8;

struct PrefillSizes {
  int64_t first_pair = 0;  // tiles are numbered from 2 first_pair on
  int64_t tiles = 0, pages = 0, capacity = 0;
  int64_t mean = 0, keys = 0, queries = 0, lists = 0, counts = 0;  // bytes
  int64_t total() const { return mean + keys + queries + lists + counts; }
};

inline PrefillSizes SizesOf(int64_t begin, int32_t rows, int32_t query_heads,
                            int32_t kv_heads, int32_t dim) {
  const int share = query_heads / kv_heads;
  const int64_t pair = 2 * TileTokens(share), end = begin + rows;
  PrefillSizes s;
  s.first_pair = begin / pair;
  s.tiles = 2 * ((end - 1) / pair + 1 - s.first_pair);
  s.pages = (end + kPageTokens - 1) / kPageTokens;
  const int64_t far = TileWindowPage(end - 1, share) - 1;
  const int64_t most = far * kPageTokens / kLists;  // a warp judges every fourth 16 keys
  s.capacity = most < tuning::kMaxListed ? most : tuning::kMaxListed;
  s.mean = Align(int64_t{4} * kv_heads * dim);
  s.keys = Align(kv_heads * s.pages * kPageTokens * dim);
  s.queries = Align(s.tiles * kv_heads * kTileRows * dim);
  s.lists = Align(s.tiles * kv_heads * kLists * s.capacity *
                  static_cast<int64_t>(sizeof(Listed)));
  s.counts = Align(s.tiles * kv_heads * kLists * 4);
  return s;
}

struct PrefillWork {
  float* mean;       // [G, D] what is taken off every key before it is rounded
  uint8_t* keys;     // [G, pages, 64 D] e4m3, rows swizzled
  uint8_t* queries;  // [tiles, G, 128 D] e4m3, rows swizzled; row token R + head
  Listed* lists;     // [tiles, G, kLists, capacity]
  int32_t* counts;   // [tiles, G, kLists], -1: more than capacity
  int32_t first_pair;
  int32_t tiles, pages, capacity;
};

inline PrefillWork LayPrefill(const RefinedPrefillArgs& a) {
  const PrefillSizes s = SizesOf(a.begin, a.rows, a.query_heads, a.kv_heads, a.head_dim);
  char* at = static_cast<char*>(a.workspace);
  const auto take = [&](int64_t bytes) {
    char* const taken = at;
    at += bytes;
    return taken;
  };
  PrefillWork w;
  w.mean = reinterpret_cast<float*>(take(s.mean));
  w.keys = reinterpret_cast<uint8_t*>(take(s.keys));
  w.queries = reinterpret_cast<uint8_t*>(take(s.queries));
  w.lists = reinterpret_cast<Listed*>(take(s.lists));
  w.counts = reinterpret_cast<int32_t*>(take(s.counts));
  w.first_pair = static_cast<int32_t>(s.first_pair);
  w.tiles = static_cast<int32_t>(s.tiles);
  w.pages = static_cast<int32_t>(s.pages);
  w.capacity = static_cast<int32_t>(s.capacity);
  return w;
}

struct PrefillLaunch {
  RefinedPrefillArgs args;
  PrefillWork work;
};
cudaError_t QuantisePrefill(const PrefillLaunch& launch, cudaStream_t stream);
cudaError_t ChooseKeys(const PrefillLaunch& launch, cudaStream_t stream);
cudaError_t ReadChosen(const PrefillLaunch& launch, cudaStream_t stream);

}  // namespace quire::kernels::cuda

#pragma once

#include <cstdint>
#include <ostream>
#include <vector>

#include "tests/core/kernels/cuda/cuda_fixture.h"

namespace quire::testing {

// One decode step on the host: ragged sequences whose pages lie scattered in the cache.
// Everything that the kernel must not use is NaN: places past a sequence's length, blocks
// of nobody, queries of rows that decode nothing.
struct DecodeBatch {
  int32_t query_heads = 0, kv_heads = 0, dim = 0;
  int32_t step_rows = 0, num_blocks = 0;
  float scale = 1;
  std::vector<int32_t> rows, lengths, first_page, pages;
  std::vector<Bf16> q, k, v;  // [T, H, D] and the cache, twice

  size_t OutSize() const { return size_t{1} * step_rows * query_heads * dim; }
  // Where a key or value stands in k and v.
  size_t CacheOffset(int32_t sequence, int32_t head, int32_t token) const {
    const int32_t page = pages[first_page[sequence] + token / kernels::cuda::kPageTokens];
    return ((size_t{1} * page * kv_heads + head) * kernels::cuda::kPageTokens +
            token % kernels::cuda::kPageTokens) *
           dim;
  }
};

struct DecodeShape {
  int32_t dim = 64;
  int32_t share = 1;     // R
  int32_t kv_heads = 2;  // G
  float q_deviation = 1;
  // Pages of each sequence past those that its length needs, reserved but not written.
  int32_t spare_pages = 0;
};
// The name of a test case of it.
inline void PrintTo(const DecodeShape& s, std::ostream* out) {
  *out << "D" << s.dim << "R" << s.share;
}

DecodeBatch MakeDecodeBatch(const DecodeShape& shape, const std::vector<int32_t>& lengths,
                            uint32_t seed);

// Softmax attention in doubles: of each sequence, [H, D].
std::vector<std::vector<double>> DecodeOracle(const DecodeBatch& batch);

}  // namespace quire::testing

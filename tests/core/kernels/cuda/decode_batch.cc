#include "tests/core/kernels/cuda/decode_batch.h"

#include <algorithm>
#include <numeric>

namespace quire::testing {
namespace {

using kernels::cuda::kPageTokens;

constexpr int32_t kIdleRows = 5;    // of the step that decode nothing
constexpr int32_t kIdleBlocks = 7;  // of the cache that are nobody's

void LayPages(const DecodeShape& shape, Draw& draw, DecodeBatch& b) {
  b.first_page = {0};
  for (const int32_t length : b.lengths) {
    b.first_page.push_back(b.first_page.back() +
                           (length + kPageTokens - 1) / kPageTokens + shape.spare_pages);
  }
  b.num_blocks = b.first_page.back() + kIdleBlocks;
  b.pages = draw.Permutation(b.num_blocks);
  b.pages.resize(b.first_page.back());
}

// The values that may be read; all others are poison.
void FillCache(Draw& draw, DecodeBatch& b) {
  const size_t cache = size_t{1} * b.num_blocks * b.kv_heads * kPageTokens * b.dim;
  b.k.assign(cache, PoisonValue());
  b.v.assign(cache, PoisonValue());
  // Values repeat after this many: normal numbers are what costs time here.
  const std::vector<Bf16> values = draw.Bf16s(100'003);
  size_t next = 0;
  for (size_t s = 0; s < b.lengths.size(); ++s) {
    for (int32_t head = 0; head < b.kv_heads; ++head) {
      for (int32_t token = 0; token < b.lengths[s]; ++token) {
        const size_t at = b.CacheOffset(static_cast<int32_t>(s), head, token);
        for (int32_t i = 0; i < b.dim; ++i) {
          b.k[at + i] = values[next++ % values.size()];
          b.v[at + i] = values[(next++ * 7) % values.size()];
        }
      }
    }
  }
}

std::vector<double> OracleOfHead(const DecodeBatch& b, int32_t sequence, int32_t head) {
  const int32_t length = b.lengths[sequence];
  const int32_t kv_head = head / (b.query_heads / b.kv_heads);
  const Bf16* const q =
      b.q.data() + (size_t{1} * b.rows[sequence] * b.query_heads + head) * b.dim;
  const std::vector<double> query = ToDoubles(std::vector<Bf16>(q, q + b.dim));
  std::vector<double> scores(length), out(b.dim);
  for (int32_t token = 0; token < length; ++token) {
    const Bf16* const k = b.k.data() + b.CacheOffset(sequence, kv_head, token);
    double score = 0;
    for (int32_t i = 0; i < b.dim; ++i) score += query[i] * __bfloat162float(k[i]);
    scores[token] = score * b.scale;
  }
  const double high = *std::max_element(scores.begin(), scores.end());
  for (double& score : scores) score = std::exp(score - high);
  const double sum = std::accumulate(scores.begin(), scores.end(), 0.0);
  for (int32_t token = 0; token < length; ++token) {
    const Bf16* const v = b.v.data() + b.CacheOffset(sequence, kv_head, token);
    const double weight = scores[token] / sum;
    for (int32_t i = 0; i < b.dim; ++i) out[i] += weight * __bfloat162float(v[i]);
  }
  return out;
}

}  // namespace

DecodeBatch MakeDecodeBatch(const DecodeShape& shape, const std::vector<int32_t>& lengths,
                            uint32_t seed) {
  Draw draw(seed);
  DecodeBatch b;
  b.query_heads = shape.kv_heads * shape.share;
  b.kv_heads = shape.kv_heads;
  b.dim = shape.dim;
  b.scale = 1 / std::sqrt(static_cast<float>(shape.dim));
  b.lengths = lengths;
  b.step_rows = static_cast<int32_t>(lengths.size()) + kIdleRows;
  b.rows = draw.Permutation(b.step_rows);
  b.rows.resize(lengths.size());
  LayPages(shape, draw, b);
  FillCache(draw, b);
  b.q.assign(b.OutSize(), PoisonValue());
  for (const int32_t row : b.rows) {
    const size_t size = size_t{1} * b.query_heads * b.dim;
    const std::vector<Bf16> query = draw.Bf16s(size, shape.q_deviation);
    std::copy(query.begin(), query.end(), b.q.begin() + row * size);
  }
  return b;
}

std::vector<std::vector<double>> DecodeOracle(const DecodeBatch& batch) {
  std::vector<std::vector<double>> outs;
  for (size_t s = 0; s < batch.lengths.size(); ++s) {
    std::vector<double>& out = outs.emplace_back();
    for (int32_t head = 0; head < batch.query_heads; ++head) {
      const std::vector<double> part = OracleOfHead(batch, static_cast<int32_t>(s), head);
      out.insert(out.end(), part.begin(), part.end());
    }
  }
  return outs;
}

}  // namespace quire::testing

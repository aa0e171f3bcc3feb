#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <ostream>
#include <random>
#include <vector>

#include "ATen/TensorOperators.h"
#include "ATen/ops/full.h"
#include "core/attention/faithful_attention.h"
#include "core/kernels/kernels.h"
#include "tests/core/kernels/random_tensor.h"
#include "tests/support/faithful_oracle.h"

namespace quire::testing {

// A text read step by step in one layer; steps: the rows of each.
struct FaithfulCase {
  at::ScalarType type = at::kFloat;
  int64_t heads = 2, kv_heads = 1, head_dim = 16, block = 64;
  FaithfulOptions options;
  std::vector<int64_t> steps;

  int64_t tokens() const { return std::accumulate(steps.begin(), steps.end(), 0L); }
  int64_t share() const { return heads / kv_heads; }
};

inline std::ostream& operator<<(std::ostream& out, const FaithfulCase& c) {
  out << c10::toString(c.type) << " H " << c.heads << " G " << c.kv_heads << " D "
      << c.head_dim << " B " << c.block << " m " << c.options.group_tokens << " gamma "
      << c.options.focal_share << " min " << c.options.min_focal_tokens << " sampled "
      << c.options.sampled_queries << " bias " << static_cast<int>(c.options.bias)
      << " scaled " << c.options.scaled_pooling << " whole " << c.options.whole_prompt
      << " steps";
  for (const int64_t step : c.steps) out << ' ' << step;
  return out;
}

inline void AddDecodes(int64_t n, std::vector<int64_t>& steps) {
  steps.insert(steps.end(), n, 1);
}

template <typename T>
T OneOf(std::mt19937& random, std::initializer_list<T> choices) {
  return choices.begin()[random() % choices.size()];
}

// A prompt in chunks, many of awkward sizes, and an answer.
inline std::vector<int64_t> RandomSteps(std::mt19937& random) {
  std::vector<int64_t> steps;
  const auto chunks = 1 + random() % 4;
  for (size_t i = 0; i < chunks; ++i) {
    steps.push_back(OneOf<int64_t>(random, {1, 2, 15, 16, 17, 18, 40, 64, 65, 100, 190}));
  }
  AddDecodes(OneOf<int64_t>(random, {0, 1, 5, 17, 18, 36, 60}), steps);
  return steps;
}

inline FaithfulCase RandomCase(uint32_t seed) {
  std::mt19937 random(seed);
  FaithfulCase c;
  c.type = OneOf(random, {at::kFloat, at::kFloat, at::kBFloat16});
  c.kv_heads = OneOf<int64_t>(random, {1, 2, 3});
  c.heads = c.kv_heads * OneOf<int64_t>(random, {1, 2, 3});
  c.head_dim = OneOf<int64_t>(random, {16, 32});
  c.block = OneOf<int64_t>(random, {64, 64, 16, 7, 1});
  c.options.group_tokens = OneOf<int32_t>(random, {1, 2, 4, 10, 16, 16, 33, 500});
  c.options.focal_share = OneOf(random, {.01f, .1f, .1f, .5f, 1.f});
  c.options.min_focal_tokens = OneOf<int32_t>(random, {0, 0, 8, 50, 1000});
  c.options.sampled_queries = OneOf<int32_t>(random, {1, 2, 9, 128});
  c.options.bias =
      OneOf(random, {GroupBias::kNone, GroupBias::kLogSize, GroupBias::kEntropy});
  c.options.scaled_pooling = OneOf(random, {true, true, false});
  c.options.whole_prompt = OneOf(random, {true, false});
  c.steps = RandomSteps(random);
  return c;
}

// Keys and values in scattered blocks, unused places NaN; the sequence stands between
// rows of others in every step.
class FaithfulRun {
 public:
  static constexpr int64_t kOthersBefore = 2, kOthersAfter = 1;

  FaithfulRun(const FaithfulCase& c, uint32_t seed)
      : c_(c),
        q(RandomTensor({c.tokens(), c.heads, c.head_dim}, c.type, seed, 2)),
        k(RandomTensor({c.tokens(), c.kv_heads, c.head_dim}, c.type, seed + 1)),
        v(RandomTensor({c.tokens(), c.kv_heads, c.head_dim}, c.type, seed + 2)) {
    const int64_t blocks = (c.tokens() + c.block - 1) / c.block;
    std::vector<int32_t> ids(2 * blocks + 1);
    std::iota(ids.begin(), ids.end(), 0);
    std::shuffle(ids.begin(), ids.end(), std::mt19937(seed));
    for (int64_t i = 0; i < blocks; ++i) table_.push_back(BlockId{ids[i]});
    const std::vector<int64_t> shape = {2 * blocks + 1, c.kv_heads, c.block, c.head_dim};
    kv_ = {at::full(shape, NAN, c.type), at::full(shape, NAN, c.type)};
  }

  // The next step; its rows' output [rows, H, D] float32.
  at::Tensor Step(int64_t rows) {
    for (int64_t t = seen_; t < seen_ + rows; ++t) Store(t);
    const int64_t step = kOthersBefore + rows + kOthersAfter;
    at::Tensor step_q =
        at::full({c_.kv_heads, step, c_.share(), c_.head_dim}, NAN, c_.type);
    step_q.narrow(1, kOthersBefore, rows)
        .copy_(q.narrow(0, seen_, rows)
                   .view({rows, c_.kv_heads, c_.share(), c_.head_dim})
                   .transpose(0, 1));
    at::Tensor out = at::full({step, c_.heads * c_.head_dim}, 7, c_.type);
    FaithfulAttention(step_q, kv_,
                      {kOthersBefore, rows, static_cast<Position>(seen_), table_},
                      scale(), c_.options, state, out, stats);
    others_touched |=
        (out.narrow(0, 0, kOthersBefore) != 7).any().item<bool>() ||
        (out.narrow(0, step - kOthersAfter, kOthersAfter) != 7).any().item<bool>();
    seen_ += rows;
    return out.narrow(0, kOthersBefore, rows)
        .view({rows, c_.heads, c_.head_dim})
        .to(at::kFloat);
  }

  std::vector<at::Tensor> Run() {
    std::vector<at::Tensor> outs;
    for (const int64_t rows : c_.steps) outs.push_back(Step(rows));
    return outs;
  }

  float scale() const { return 1 / std::sqrt(static_cast<float>(c_.head_dim)); }
  int64_t seen() const { return seen_; }
  const kernels::PagedKv& kv() const { return kv_; }
  const std::vector<BlockId>& blocks() const { return table_; }
  FaithfulProblem Problem() const {
    return {
        c_.heads,    c_.kv_heads, c_.head_dim,  static_cast<int64_t>(k.element_size()),
        scale(),     c_.options,  ToDoubles(q), ToDoubles(k),
        ToDoubles(v)};
  }

 private:
  void Store(int64_t token) {
    const auto block = static_cast<int64_t>(table_[token / c_.block]);
    kv_.k[block].select(1, token % c_.block).copy_(k[token]);
    kv_.v[block].select(1, token % c_.block).copy_(v[token]);
  }

  const FaithfulCase c_;
  int64_t seen_ = 0;
  std::vector<BlockId> table_;
  kernels::PagedKv kv_;

 public:
  at::Tensor q, k, v;  // [N, H or G, D]: may be changed before they are read
  FaithfulLayer state;
  AttentionStats stats;
  bool others_touched = false;
};

}  // namespace quire::testing

#pragma once

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <vector>

#include "ATen/Parallel.h"
#include "ATen/TensorOperators.h"
#include "ATen/ops/equal.h"
#include "ATen/ops/full.h"
#include "core/kernels/refined.h"
#include "tests/core/kernels/random_tensor.h"
#include "tests/support/refined_oracle.h"

namespace quire::kernels {

struct RefinedShape {
  at::ScalarType type = at::kFloat;
  int64_t begin = 0, rows = 0, share = 1, kv_heads = 1, head_dim = 16;
  int64_t tokens() const { return begin + rows; }
};

// A sequence over scattered pages whose unused places are NaN, with a few keys that draw
// much attention, as in a text.
class RefinedFixture {
 public:
  RefinedFixture(const RefinedShape& shape, uint32_t seed) : shape_(shape) {
    const int64_t pages = (shape.tokens() + kGroupTokens - 1) / kGroupTokens;
    std::vector<int32_t> ids(2 * pages);
    std::iota(ids.begin(), ids.end(), 0);
    std::shuffle(ids.begin(), ids.end(), std::mt19937(seed));
    for (int64_t i = 0; i < pages; ++i) table_.push_back(BlockId{ids[i]});
    q_ = testing::RandomTensor({shape.kv_heads, shape.rows, shape.share, shape.head_dim},
                               shape.type, seed + 1, 2);
    k_ = testing::RandomTensor({shape.tokens(), shape.kv_heads, shape.head_dim},
                               shape.type, seed + 2, 1.5);
    v_ = testing::RandomTensor({shape.tokens(), shape.kv_heads, shape.head_dim},
                               shape.type, seed + 3);
    const std::vector<int64_t> cache = {2 * pages, shape.kv_heads, kGroupTokens,
                                        shape.head_dim};
    kv_.k = at::full(cache, NAN, shape.type);
    kv_.v = at::full(cache, NAN, shape.type);
    for (int64_t t = 0; t < shape.tokens(); ++t) Store(t);
    index_ = PageIndex::Make(2 * pages, shape.kv_heads, shape.head_dim);
  }

  void Store(int64_t t) {
    const auto block = static_cast<int64_t>(table_[t / kGroupTokens]);
    kv_.k[block].select(1, t % kGroupTokens).copy_(k_[t]);
    kv_.v[block].select(1, t % kGroupTokens).copy_(v_[t]);
    keys_.resize(shape_.tokens() * shape_.kv_heads);
    values_.resize(keys_.size());
    for (int64_t head = 0; head < shape_.kv_heads; ++head) {
      keys_[t * shape_.kv_heads + head] = Doubles(k_[t][head]);
      values_[t * shape_.kv_heads + head] = Doubles(v_[t][head]);
    }
  }

  // Rows [first, first + count) of the step.
  SequenceRows Rows(int64_t first, int64_t count) const {
    return {first, count, static_cast<Position>(shape_.begin + first), table_};
  }
  at::Tensor Out() const {
    return at::full({shape_.rows, shape_.kv_heads * shape_.share * shape_.head_dim}, NAN,
                    q_.options());
  }
  void Index() {
    const int64_t far = WindowPage(shape_.tokens() - 1);
    IndexPages(kv_, absl::MakeSpan(table_).subspan(1, far - 1), index_, work_);
  }
  RefinedOptions Options(float eps) const { return {.scale = Scale(), .eps = eps}; }
  float Scale() const { return 1 / std::sqrt(static_cast<float>(shape_.head_dim)); }

  // All rows at once, with one thread so that columns are recorded in order.
  at::Tensor Attend(RefinedOptions options, std::vector<ReadColumn>* columns,
                    AttentionStats* stats = nullptr) {
    Index();
    options.record = columns;
    AttentionStats unused;
    at::Tensor out = Out();
    RefinedAttention(q_, kv_, index_, Rows(0, shape_.rows), options, out,
                     stats != nullptr ? *stats : unused);
    return out;
  }

  static std::vector<double> Doubles(const at::Tensor& t) {
    return testing::ToDoubles(t);
  }
  std::vector<double> Query(int64_t row, int64_t head, int64_t r) const {
    return Doubles(q_[head][row][r]);
  }
  const std::vector<double>& Key(int64_t t, int64_t head) const {
    return keys_[t * shape_.kv_heads + head];
  }
  const std::vector<double>& Value(int64_t t, int64_t head) const {
    return values_[t * shape_.kv_heads + head];
  }
  std::vector<double> OutOf(const at::Tensor& out, int64_t row, int64_t head,
                            int64_t r) const {
    const int64_t d = shape_.head_dim;
    return Doubles(out[row].narrow(0, (head * shape_.share + r) * d, d));
  }

  // Keys of a head as the index keeps them.
  std::vector<std::vector<double>> CodedKeys(int64_t head) const {
    std::vector<std::vector<double>> coded;
    for (int64_t page = 0; page * 64 < shape_.tokens(); ++page) {
      const int64_t end = std::min(shape_.tokens(), page * 64 + 64);
      std::vector<double> mean(shape_.head_dim);
      for (int64_t t = page * 64; t < end; ++t) {
        for (size_t i = 0; i < mean.size(); ++i) mean[i] += Key(t, head)[i] / 64;
      }
      for (int64_t t = page * 64; t < end; ++t)
        coded.push_back(testing::CodedKey(Key(t, head), mean));
    }
    return coded;
  }

  RefinedShape shape_;
  std::vector<std::vector<double>> keys_, values_;  // [t G + head]
  std::vector<BlockId> table_;
  at::Tensor q_, k_, v_;
  PagedKv kv_;
  PageIndex index_;
  AttentionWork work_;
};

// ATen's threads for the time of a test that records.
class OneThread {
 public:
  OneThread() : before_(at::get_num_threads()) { at::set_num_threads(1); }
  ~OneThread() { at::set_num_threads(before_); }

 private:
  int before_;
};

}  // namespace quire::kernels

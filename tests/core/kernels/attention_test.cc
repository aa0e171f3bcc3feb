#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <random>

#include "ATen/TensorOperators.h"
#include "ATen/ops/full.h"
#include "core/kernels/kernels.h"
#include "tests/core/kernels/random_tensor.h"
#include "tests/support/attention_oracle.h"

namespace quire::kernels {
namespace {

using testing::AttentionOracle;
using testing::AttentionProblem;
using testing::RandomTensor;
using testing::RelativeError;
using testing::ToDoubles;

struct Case {
  at::ScalarType type;
  int64_t begin, rows, heads, kv_heads, head_dim, block;
  double error;  // relative to the largest value
};

std::ostream& operator<<(std::ostream& out, const Case& c) {
  return out << c10::toString(c.type) << " begin " << c.begin << " rows " << c.rows
             << " H " << c.heads << " G " << c.kv_heads << " D " << c.head_dim << " B "
             << c.block;
}

// A cache whose blocks are scattered and whose unused places are poisoned with NaN.
struct Fixture {
  Fixture(const Case& c, uint32_t seed) : tokens(c.begin + c.rows) {
    const int64_t blocks = (tokens + c.block - 1) / c.block;
    table.resize(blocks);
    std::vector<int32_t> ids(2 * blocks + 1);
    std::iota(ids.begin(), ids.end(), 0);
    std::shuffle(ids.begin(), ids.end(), std::mt19937(seed));
    for (int64_t i = 0; i < blocks; ++i) table[i] = BlockId{ids[i]};
    q = RandomTensor({c.kv_heads, c.rows, c.heads / c.kv_heads, c.head_dim}, c.type,
                     seed + 1, 2);
    k = RandomTensor({tokens, c.kv_heads, c.head_dim}, c.type, seed + 2);
    v = RandomTensor({tokens, c.kv_heads, c.head_dim}, c.type, seed + 3);
    const std::vector<int64_t> shape = {2 * blocks + 1, c.kv_heads, c.block, c.head_dim};
    kv.k = at::full(shape, NAN, c.type);
    kv.v = at::full(shape, NAN, c.type);
    for (int64_t t = 0; t < tokens; ++t) {
      const auto block = static_cast<int64_t>(table[t / c.block]);
      kv.k[block].select(1, t % c.block).copy_(k[t]);
      kv.v[block].select(1, t % c.block).copy_(v[t]);
    }
  }
  int64_t tokens;
  std::vector<BlockId> table;
  at::Tensor q, k, v;
  PagedKv kv;
};

at::Tensor Attend(const Fixture& f, const std::vector<SequenceRows>& sequences,
                  float scale) {
  const int64_t heads = f.q.size(0) * f.q.size(2);
  at::Tensor out = at::full({f.q.size(1), heads * f.q.size(3)}, NAN, f.q.options());
  for (const SequenceRows& s : sequences) DenseAttention(f.q, f.kv, s, scale, out);
  return out;
}

class AttentionTest : public ::testing::TestWithParam<Case> {};

TEST_P(AttentionTest, EqualsPlainLoopsOverScatteredPages) {
  const Case& c = GetParam();
  if (c.type == at::kBFloat16 && !HasFastBFloat16())
    GTEST_SKIP() << "no AVX512-BF16 here";
  Fixture f(c, 7);
  const float scale = 1 / std::sqrt(static_cast<float>(c.head_dim));
  const SequenceRows rows = {0, c.rows, static_cast<Position>(c.begin), f.table};
  const at::Tensor out = Attend(f, {rows}, scale);
  const AttentionProblem problem = {c.rows,
                                    c.heads,
                                    c.kv_heads,
                                    c.head_dim,
                                    c.begin,
                                    scale,
                                    ToDoubles(f.q.transpose(0, 1)),
                                    ToDoubles(f.k),
                                    ToDoubles(f.v)};
  EXPECT_LT(RelativeError(ToDoubles(out), AttentionOracle(problem)), c.error);
}

std::vector<Case> Cases() {
  std::vector<Case> cases;
  for (auto [begin, rows] : std::vector<std::pair<int64_t, int64_t>>{{0, 1},
                                                                     {0, 2},
                                                                     {1, 1},
                                                                     {15, 1},
                                                                     {16, 1},
                                                                     {63, 1},
                                                                     {64, 1},
                                                                     {700, 1},
                                                                     {1100, 1},
                                                                     {0, 63},
                                                                     {0, 64},
                                                                     {0, 65},
                                                                     {0, 130},
                                                                     {1, 2},
                                                                     {63, 2},
                                                                     {255, 2},
                                                                     {256, 7},
                                                                     {300, 150}}) {
    for (auto [heads, kv_heads] :
         std::vector<std::pair<int64_t, int64_t>>{{9, 3}, {4, 4}, {7, 1}}) {
      cases.push_back({at::kBFloat16, begin, rows, heads, kv_heads, 64, 64, 2e-2});
      cases.push_back({at::kFloat, begin, rows, heads, kv_heads, 64, 64, 1e-4});
    }
    cases.push_back({at::kBFloat16, begin, rows, 8, 2, 128, 16, 2e-2});
    cases.push_back({at::kFloat, begin, rows, 4, 2, 16, 16, 1e-4});
  }
  return cases;
}
INSTANTIATE_TEST_SUITE_P(Shapes, AttentionTest, ::testing::ValuesIn(Cases()));

// Sequences of one step do not see each other, whatever their order.
TEST(AttentionBatchTest, SequencesOfAStepEqualSequencesAlone) {
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    if (type == at::kBFloat16 && !HasFastBFloat16()) continue;
    Fixture f({type, 100, 30, 6, 3, 64, 64, 0}, 3);
    const SequenceRows all = {0, 30, 100, f.table};
    const std::vector<SequenceRows> halves = {{0, 29, 100, f.table},
                                              {29, 1, 129, f.table}};
    const at::Tensor whole = Attend(f, {all}, 0.125f);
    const at::Tensor parts = Attend(f, halves, 0.125f);
    EXPECT_LT(RelativeError(ToDoubles(parts), ToDoubles(whole)),
              type == at::kFloat ? 1e-5 : 1e-2);
  }
}

}  // namespace
}  // namespace quire::kernels

#include "core/attention/probe_attention.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>
#include <random>

#include "ATen/TensorOperators.h"
#include "ATen/ops/full.h"
#include "tests/core/kernels/random_tensor.h"

namespace quire {
namespace {

using testing::RandomTensor;
using testing::ToDoubles;

struct Case {
  at::ScalarType type;
  int64_t begin, rows, heads, kv_heads, head_dim, block;
};

std::ostream& operator<<(std::ostream& out, const Case& c) {
  return out << c10::toString(c.type) << " begin " << c.begin << " rows " << c.rows
             << " H " << c.heads << " G " << c.kv_heads << " D " << c.head_dim << " B "
             << c.block;
}

constexpr int64_t kOtherRows = 3;  // of another sequence, before ours in the step
constexpr float kScale = 0.2f;

// Keys in scattered blocks; unused places and values are NaN.
struct Fixture {
  explicit Fixture(const Case& c)
      : tokens(c.begin + c.rows),
        k(RandomTensor({tokens, c.kv_heads, c.head_dim}, c.type, 2)),
        q(RandomTensor(
            {c.kv_heads, kOtherRows + c.rows, c.heads / c.kv_heads, c.head_dim}, c.type,
            1)) {
    const int64_t blocks = (tokens + c.block - 1) / c.block;
    std::vector<int32_t> ids(blocks + 1);
    std::iota(ids.begin(), ids.end(), 0);
    std::shuffle(ids.begin(), ids.end(), std::mt19937(4));
    for (int64_t i = 0; i < blocks; ++i) table.push_back(BlockId{ids[i]});
    kv.k = at::full({blocks + 1, c.kv_heads, c.block, c.head_dim}, NAN, c.type);
    kv.v = at::full({blocks + 1, c.kv_heads, c.block, c.head_dim}, NAN, c.type);
    for (int64_t t = 0; t < tokens; ++t) {
      kv.k[static_cast<int64_t>(table[t / c.block])].select(1, t % c.block).copy_(k[t]);
    }
  }
  kernels::SequenceRows Rows(const Case& c) const {
    return {kOtherRows, c.rows, static_cast<Position>(c.begin), table};
  }
  int64_t tokens;
  at::Tensor k, q;
  std::vector<BlockId> table;
  kernels::PagedKv kv;
};

std::vector<double> PlainLoops(const Case& c, const Fixture& f,
                               const std::vector<int64_t>& rows) {
  const std::vector<double> q = ToDoubles(f.q), k = ToDoubles(f.k);
  const int64_t share = c.heads / c.kv_heads, d = c.head_dim;
  std::vector<double> sums(f.tokens);
  for (const int64_t row : rows) {
    for (int64_t h = 0; h < c.heads; ++h) {
      const int64_t at = (h / share * (kOtherRows + c.rows) + kOtherRows + row) * share;
      std::vector<double> weight(c.begin + row + 1);
      double total = 0;
      for (size_t n = 0; n < weight.size(); ++n) {
        if (f.table[n / c.block] == kNoBlock) continue;
        double score = 0;
        for (int64_t i = 0; i < d; ++i) {
          score += q[(at + h % share) * d + i] * k[(n * c.kv_heads + h / share) * d + i];
        }
        total += weight[n] = std::exp(score * kScale);
      }
      for (size_t n = 0; n < weight.size(); ++n) {
        sums[n] += weight[n] / total / static_cast<double>(c.heads);
      }
    }
  }
  return sums;
}

std::vector<float> Probe(const Case& c, const Fixture& f,
                         const std::vector<int64_t>& rows) {
  std::vector<float> attention(f.tokens);
  AttentionWork work;
  ProbeAttention(f.q, f.kv, f.Rows(c), rows, kScale, absl::MakeSpan(attention), work);
  return attention;
}

void ExpectNear(const std::vector<float>& got, const std::vector<double>& wanted) {
  ASSERT_EQ(got.size(), wanted.size());
  for (size_t i = 0; i < got.size(); ++i) {
    ASSERT_NEAR(got[i], wanted[i], 1e-6 + 1e-4 * wanted[i]) << "token " << i;
  }
}

std::vector<int64_t> EveryThird(int64_t rows) {
  std::vector<int64_t> third;
  for (int64_t row = (rows - 1) % 3; row < rows; row += 3) third.push_back(row);
  return third;
}

class ProbeAttentionTest : public ::testing::TestWithParam<Case> {};

TEST_P(ProbeAttentionTest, EqualsPlainLoops) {
  const Case& c = GetParam();
  const Fixture f(c);
  const std::vector<int64_t> rows = EveryThird(c.rows);
  ExpectNear(Probe(c, f, rows), PlainLoops(c, f, rows));
}

TEST_P(ProbeAttentionTest, DroppedPagesGetNothing) {
  const Case& c = GetParam();
  Fixture f(c);
  for (size_t i = 0; i + 1 < f.table.size(); i += 2) f.table[i] = kNoBlock;
  const std::vector<int64_t> rows = {c.rows - 1};
  ExpectNear(Probe(c, f, rows), PlainLoops(c, f, rows));
}

INSTANTIATE_TEST_SUITE_P(Shapes, ProbeAttentionTest,
                         ::testing::Values(Case{at::kFloat, 0, 1, 2, 1, 16, 16},
                                           Case{at::kFloat, 0, 130, 9, 3, 16, 16},
                                           Case{at::kFloat, 63, 2, 4, 4, 64, 64},
                                           Case{at::kFloat, 64, 1, 6, 2, 32, 64},
                                           Case{at::kFloat, 301, 77, 7, 1, 16, 7},
                                           Case{at::kBFloat16, 0, 65, 6, 3, 64, 64},
                                           Case{at::kBFloat16, 300, 150, 9, 3, 64, 64},
                                           Case{at::kBFloat16, 15, 1, 8, 2, 128, 16}));

// What a row gives sums to 1, is added to what is there, and the work is what was done.
TEST(ProbeAttentionAccountTest, AddsAndCounts) {
  const Case c = {at::kBFloat16, 40, 10, 6, 3, 16, 16};
  const Fixture f(c);
  std::vector<float> attention(f.tokens, 1.0f);
  AttentionWork work;
  const std::vector<int64_t> rows = {2, 5};
  ProbeAttention(f.q, f.kv, f.Rows(c), rows, kScale, absl::MakeSpan(attention), work);
  const double sum = std::accumulate(attention.begin(), attention.end(), 0.0);
  EXPECT_NEAR(sum, 50 + 2, 1e-4);
  EXPECT_EQ(attention[46], 1.0f);  // later than the last row
  EXPECT_EQ(work.audit_macs, (43 + 46) * 6 * 16);
  EXPECT_EQ(work.audit_bytes, 46 * 3 * 16 * 2);
  EXPECT_EQ(work.executed_macs(), work.audit_macs);
}

TEST(ProbeAttentionAccountTest, NoRowsDoNothing) {
  const Case c = {at::kFloat, 0, 5, 2, 1, 16, 16};
  const Fixture f(c);
  EXPECT_EQ(Probe(c, f, {}), std::vector<float>(5));
}

}  // namespace
}  // namespace quire

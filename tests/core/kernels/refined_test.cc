#include "core/kernels/refined.h"

#include <gtest/gtest.h>

#include <map>

#include "tests/core/kernels/refined_fixture.h"
#include "tests/support/attention_oracle.h"

namespace quire::kernels {
namespace {

using testing::CodedKey;
using testing::OracleColumn;
using testing::RelativeError;

std::string Name(const ::testing::TestParamInfo<RefinedShape>& info) {
  const RefinedShape& s = info.param;
  return std::string(c10::toString(s.type)) + "_begin" + std::to_string(s.begin) +
         "_rows" + std::to_string(s.rows) + "_R" + std::to_string(s.share) + "_G" +
         std::to_string(s.kv_heads) + "_D" + std::to_string(s.head_dim);
}

std::vector<RefinedShape> Shapes() {
  std::vector<RefinedShape> shapes;
  // At the threshold, over page borders, tails, one token.
  const std::vector<std::pair<int64_t, int64_t>> extents = {
      {192, 1}, {193, 1}, {255, 3}, {256, 1}, {300, 20}, {447, 2}, {600, 9}};
  for (const auto& [begin, rows] : extents) {
    shapes.push_back({at::kFloat, begin, rows, 3, 2, 16});
    shapes.push_back({at::kFloat, begin, rows, 1, 1, 64});
    shapes.push_back({at::kBFloat16, begin, rows, 3, 2, 64});
    shapes.push_back({at::kBFloat16, begin, rows, 4, 1, 128});
  }
  shapes.push_back({at::kBFloat16, 600, 9, 1, 3, 64});
  shapes.push_back({at::kBFloat16, 600, 9, 8, 1, 64});
  return shapes;
}

class RefinedTest : public ::testing::TestWithParam<RefinedShape> {
 protected:
  void SetUp() override {
    if (GetParam().type == at::kBFloat16 && !HasFastBFloat16())
      GTEST_SKIP() << "no AVX512-BF16 here";
  }
  double Tolerance() const { return GetParam().type == at::kFloat ? 1e-4 : 2e-2; }
  OneThread one_thread_;
};

// The near columns of a row.
std::vector<OracleColumn> Near(const RefinedFixture& f, int64_t row, int64_t head) {
  std::vector<OracleColumn> columns;
  const int64_t position = f.shape_.begin + row;
  const int64_t window = std::max<int64_t>(1, (position - 128) / 64) * 64;
  for (int64_t t = 0; t <= position; ++t) {
    if (t < 64 || t >= window) columns.push_back({f.Key(t, head), f.Value(t, head)});
  }
  return columns;
}

TEST_P(RefinedTest, WithoutErrorEqualsDense) {
  RefinedFixture f(GetParam(), 11);
  at::Tensor dense = f.Out();
  DenseAttention(f.q_, f.kv_, f.Rows(0, f.shape_.rows), f.Scale(), dense);
  for (const TailEstimate tail : {TailEstimate::kSampled, TailEstimate::kGroupMeans}) {
    RefinedOptions options = f.Options(0);
    options.tail = tail;
    AttentionStats stats;
    const at::Tensor out = f.Attend(options, nullptr, &stats);
    EXPECT_LT(RelativeError(testing::ToDoubles(out), testing::ToDoubles(dense)),
              Tolerance());
    EXPECT_NEAR(stats.coverage / static_cast<double>(stats.sparse_rows), 1, 1e-2);
  }
}

// Whatever was chosen, the rest of the arithmetic is that of plain loops.
TEST_P(RefinedTest, EqualsPlainLoopsOverTheColumnsItRead) {
  RefinedFixture f(GetParam(), 23);
  for (const TailEstimate tail : {TailEstimate::kSampled, TailEstimate::kGroupMeans}) {
    RefinedOptions options = f.Options(0.15f);
    options.tail = tail;
    std::vector<ReadColumn> read;
    const at::Tensor out = f.Attend(options, &read);
    std::vector<double> wanted, got;
    for (int64_t row = 0; row < f.shape_.rows; ++row) {
      for (int64_t head = 0; head < f.shape_.kv_heads; ++head) {
        std::vector<OracleColumn> columns = Near(f, row, head);
        std::map<int64_t, std::vector<int64_t>> chosen;  // by page
        for (const ReadColumn& c : read) {
          if (c.head == head && c.row == f.shape_.begin + row && !c.mean)
            chosen[c.key / 64].push_back(c.key);
        }
        for (const ReadColumn& c : read) {
          if (c.head != head || c.row != f.shape_.begin + row) continue;
          if (!c.mean) {
            columns.push_back({f.Key(c.key, head), f.Value(c.key, head), c.log2_weight});
            continue;
          }
          // What is left of the page: the mean of the tokens that were not chosen.
          OracleColumn rest = {std::vector<double>(f.shape_.head_dim),
                               std::vector<double>(f.shape_.head_dim), c.log2_weight};
          const std::vector<int64_t>& gone = chosen[c.key / 64];
          const double left = 64 - static_cast<double>(gone.size());
          for (int64_t t = c.key; t < c.key + 64; ++t) {
            if (std::count(gone.begin(), gone.end(), t) > 0) continue;
            for (int64_t i = 0; i < f.shape_.head_dim; ++i) {
              rest.key[i] += f.Key(t, head)[i] / left;
              rest.value[i] += f.Value(t, head)[i] / left;
            }
          }
          EXPECT_NEAR(std::exp2(c.log2_weight), left, 1e-3);
          columns.push_back(rest);
        }
        for (int64_t r = 0; r < f.shape_.share; ++r) {
          const auto o =
              testing::WeightedAttention(f.Query(row, head, r), f.Scale(), columns);
          wanted.insert(wanted.end(), o.begin(), o.end());
          const auto own = f.OutOf(out, row, head, r);
          got.insert(got.end(), own.begin(), own.end());
        }
      }
    }
    EXPECT_LT(RelativeError(got, wanted), Tolerance());
  }
}

// The choice is that of the published rule, with shares from the coded keys.
TEST_P(RefinedTest, ReadsWhatTheIndexSaysWithTheRightWeight) {
  RefinedFixture f(GetParam(), 37);
  const float eps = 0.12f;
  std::vector<ReadColumn> read;
  f.Attend(f.Options(eps), &read);
  const double tau = eps * eps;
  std::vector<std::vector<std::vector<double>>> coded;
  for (int64_t head = 0; head < f.shape_.kv_heads; ++head)
    coded.push_back(f.CodedKeys(head));
  for (int64_t row = 0; row < f.shape_.rows; ++row) {
    const int64_t position = f.shape_.begin + row;
    const int64_t window = std::max<int64_t>(1, (position - 128) / 64) * 64;
    for (int64_t head = 0; head < f.shape_.kv_heads; ++head) {
      std::vector<std::vector<double>> keys;
      for (int64_t t = 0; t <= position; ++t) {
        keys.push_back(t >= 64 && t < window ? coded[head][t] : f.Key(t, head));
      }
      std::vector<double> chance(position + 1);
      for (int64_t r = 0; r < f.shape_.share; ++r) {
        const auto shares = testing::Shares(f.Query(row, head, r), f.Scale(), keys);
        for (size_t t = 0; t < shares.size(); ++t)
          chance[t] = std::max(chance[t], shares[t] / tau);
      }
      std::vector<double> weight(position + 1, -1);
      for (const ReadColumn& c : read) {
        if (c.head == head && c.row == position) weight[c.key] = c.log2_weight;
      }
      for (int64_t t = 64; t < window; ++t) {
        // 2^x between whole numbers is linear in the fast kernel: up to 6 %, and the
        // queries have 8 bits there.
        if (chance[t] > 1.15) {
          EXPECT_EQ(weight[t], 0) << "row " << row << " key " << t;
        }
        if (weight[t] > 0.2) {
          EXPECT_NEAR(weight[t], -std::log2(chance[t]), 0.2);
        }
      }
    }
  }
}

// Over many draws every token counts once: the estimates have no bias.
TEST_P(RefinedTest, EveryFarTokenCountsOnceOnAverage) {
  RefinedShape shape = GetParam();
  if (shape.begin < 447) return;  // nothing far, or little
  shape.rows = 1;
  RefinedFixture f(shape, 41);
  const int64_t window = WindowPage(shape.begin) * 64;
  std::map<int64_t, double> seen;  // head and key
  std::map<int64_t, double> largest;
  const int kDrawn = 100;
  for (int layer = 0; layer < kDrawn; ++layer) {
    RefinedOptions options = f.Options(0.1f);
    options.layer = layer;
    std::vector<ReadColumn> read;
    f.Attend(options, &read);
    for (const ReadColumn& c : read) {
      const int64_t at = c.head * shape.tokens() + c.key;
      seen[at] += std::exp2(c.log2_weight) / kDrawn;
      largest[at] = std::exp2(c.log2_weight);
    }
  }
  double sum = 0, deviation = 0;
  for (const auto& [at, count] : seen) {
    sum += count;
    // The variance of a mean of n draws of w with probability 1 / w.
    deviation += (largest[at] - 1) / kDrawn;
  }
  // Tokens that were never drawn would have counted for next to nothing.
  const double all = static_cast<double>(shape.kv_heads * (window - 64));
  EXPECT_LT(std::abs(sum - all), 5 * std::sqrt(deviation) + 0.03 * all);
}

// The other index says the same of every key of a page, and costs a 64th.
TEST_P(RefinedTest, PageMeansShareEvenly) {
  RefinedFixture f(GetParam(), 47);
  RefinedOptions options = f.Options(0.02f);
  options.index = KeyIndex::kPageMeans;
  std::vector<ReadColumn> read;
  AttentionStats stats;
  const at::Tensor out = f.Attend(options, &read, &stats);
  std::map<std::tuple<int64_t, int64_t, int64_t>, float> weights;  // head, row, page
  for (const ReadColumn& c : read) {
    const auto [at, first] =
        weights.emplace(std::make_tuple(c.head, c.row, c.key / 64), c.log2_weight);
    EXPECT_EQ(at->second, c.log2_weight);
  }
  int64_t pages = 0;
  for (int64_t row = 0; row < f.shape_.rows; ++row)
    pages += WindowPage(f.shape_.begin + row) - 1;
  EXPECT_EQ(stats.work.selection_macs,
            pages * f.shape_.share * f.shape_.kv_heads * f.shape_.head_dim);
  options.eps = 0;
  at::Tensor dense = f.Out();
  DenseAttention(f.q_, f.kv_, f.Rows(0, f.shape_.rows), f.Scale(), dense);
  EXPECT_LT(RelativeError(testing::ToDoubles(f.Attend(options, nullptr)),
                          testing::ToDoubles(dense)),
            Tolerance());
}

TEST_P(RefinedTest, RestsOfPagesAndChosenTokensMakeWholePages) {
  RefinedFixture f(GetParam(), 43);
  RefinedOptions options = f.Options(0.15f);
  options.tail = TailEstimate::kGroupMeans;
  std::vector<ReadColumn> read;
  f.Attend(options, &read);
  std::map<std::tuple<int64_t, int64_t, int64_t>, double> count;  // head, row, page
  for (const ReadColumn& c : read) {
    count[{c.head, c.row, c.key / 64}] += c.mean ? std::exp2(c.log2_weight) : 1;
  }
  size_t pages = 0;
  for (int64_t row = 0; row < f.shape_.rows; ++row) {
    pages += f.shape_.kv_heads * (WindowPage(f.shape_.begin + row) - 1);
  }
  EXPECT_EQ(count.size(), pages);
  for (const auto& [page, tokens] : count) EXPECT_NEAR(tokens, 64, 1e-3);
}

TEST_P(RefinedTest, RowsDoNotDependOnHowTheyAreCut) {
  RefinedFixture f(GetParam(), 53);
  const RefinedOptions options = f.Options(0.1f);
  const at::Tensor whole = f.Attend(options, nullptr);
  for (const int64_t cut : {int64_t{1}, int64_t{7}, int64_t{16}}) {
    at::Tensor parts = f.Out();
    for (int64_t first = 0; first < f.shape_.rows; first += cut) {
      AttentionStats stats;
      RefinedAttention(f.q_, f.kv_, f.index_,
                       f.Rows(first, std::min(cut, f.shape_.rows - first)), options,
                       parts, stats);
    }
    EXPECT_TRUE(at::equal(whole, parts)) << cut;
  }
}

TEST_P(RefinedTest, NothingOfTheFutureLeaks) {
  RefinedFixture f(GetParam(), 59);
  const RefinedOptions options = f.Options(0.1f);
  const at::Tensor before = f.Attend(options, nullptr);
  const int64_t last = f.shape_.tokens() - 1;
  f.k_[last].mul_(-3);
  f.v_[last].add_(1);
  f.q_.select(1, f.shape_.rows - 1).neg_();
  f.Store(last);
  const at::Tensor after = f.Attend(options, nullptr);
  EXPECT_TRUE(at::equal(before.narrow(0, 0, f.shape_.rows - 1),
                        after.narrow(0, 0, f.shape_.rows - 1)));
  EXPECT_FALSE(at::equal(before[f.shape_.rows - 1], after[f.shape_.rows - 1]));
}

TEST_P(RefinedTest, CountsWhatItReads) {
  RefinedFixture f(GetParam(), 61);
  const RefinedShape& s = f.shape_;
  std::vector<ReadColumn> read;
  AttentionStats stats;
  f.Attend(f.Options(0.1f), &read, &stats);
  int64_t near = 0, indexed = 0;
  for (int64_t row = 0; row < s.rows; ++row) {
    near += static_cast<int64_t>(Near(f, row, 0).size());
    indexed += (WindowPage(s.begin + row) - 1) * 64;
  }
  const int64_t columns =
      s.share * (s.kv_heads * near + static_cast<int64_t>(read.size()));
  EXPECT_EQ(stats.work.columns, columns);
  EXPECT_EQ(stats.work.attention_macs, columns * 2 * s.head_dim);
  const int64_t scored = s.share * s.kv_heads * indexed;
  EXPECT_EQ(stats.work.selection_macs, (scored + scored / 64) * s.head_dim);
  EXPECT_EQ(stats.sparse_rows, s.rows * s.share * s.kv_heads);
  // Every page once: sums of keys and of values, and the distances that are coded.
  const int64_t pages = WindowPage(s.tokens() - 1) - 1;
  EXPECT_EQ(f.work_.statistics_macs, pages * s.kv_heads * 64 * 3 * s.head_dim);
  EXPECT_GT(stats.coverage, 0);
  EXPECT_LE(stats.coverage, static_cast<double>(stats.sparse_rows));
}

TEST_P(RefinedTest, PagesThatAreGoneStandByTheirMeans) {
  RefinedFixture f(GetParam(), 67);
  const RefinedShape& s = f.shape_;
  if (WindowPage(s.begin) < 3) return;
  f.Index();
  DroppedPages dropped = {{1},
                          at::full({1, s.kv_heads, s.head_dim}, 0, s.type),
                          at::full({1, s.kv_heads, s.head_dim}, 0, s.type)};
  const auto block = static_cast<int64_t>(f.table_[1]);
  dropped.keys.copy_(f.index_.key_means[block].unsqueeze(0));
  dropped.values.copy_(f.index_.value_means[block].unsqueeze(0));
  f.kv_.k[block].fill_(NAN);
  f.kv_.v[block].fill_(NAN);
  f.table_[1] = kNoBlock;
  RefinedOptions options = f.Options(0);
  options.dropped = &dropped;
  std::vector<ReadColumn> read;
  const at::Tensor out = f.Attend(options, &read);
  int64_t means = 0;
  for (const ReadColumn& c : read) {
    EXPECT_EQ(c.mean, c.key == 64);
    EXPECT_EQ(c.log2_weight, c.mean ? 6 : 0);
    means += c.mean ? 1 : 0;
  }
  EXPECT_EQ(means, s.rows * s.kv_heads);
  std::vector<double> wanted, got;
  for (int64_t row = 0; row < s.rows; ++row) {
    std::vector<OracleColumn> columns;
    for (int64_t t = 0; t <= s.begin + row; ++t) {
      if (t < 64 || t >= 128) columns.push_back({f.Key(t, 0), f.Value(t, 0)});
    }
    columns.push_back(
        {f.Doubles(dropped.keys[0][0]), f.Doubles(dropped.values[0][0]), 6});
    const auto o = testing::WeightedAttention(f.Query(row, 0, 0), f.Scale(), columns);
    wanted.insert(wanted.end(), o.begin(), o.end());
    const auto own = f.OutOf(out, row, 0, 0);
    got.insert(got.end(), own.begin(), own.end());
  }
  EXPECT_LT(RelativeError(got, wanted), Tolerance());
}

INSTANTIATE_TEST_SUITE_P(Shapes, RefinedTest, ::testing::ValuesIn(Shapes()), Name);

TEST(PageIndexTest, KeepsKeysToFourBitsAndMeansExactly) {
  RefinedFixture f({at::kFloat, 300, 1, 1, 2, 24}, 71);
  f.Index();
  for (const int64_t t : {64, 70, 127}) {
    const auto block = static_cast<int64_t>(f.table_[1]);
    for (int64_t head = 0; head < 2; ++head) {
      const auto mean = f.Doubles(f.index_.key_means[block][head]);
      const auto wanted = CodedKey(f.Key(t, head), mean);
      const float scale = f.index_.scales[block][head][t % 64].item<float>();
      const uint8_t* const codes = f.index_.codes[block][head].data_ptr<uint8_t>();
      for (int64_t i = 0; i < 24; ++i) {
        const int64_t low = i % 12, j = t % 64;
        const uint8_t byte = codes[((low / 4 * 4 + j / 16) * 16 + j % 16) * 4 + low % 4];
        const int code = i < 12 ? byte & 15 : byte >> 4;
        EXPECT_NEAR(mean[i] + scale * (code - 8), wanted[i], 1e-5);
        EXPECT_LE(std::abs(wanted[i] - f.Key(t, head)[i]), scale / 2 + 1e-6);
      }
    }
  }
}

TEST(PageIndexTest, IsWrittenOnceUntilItIsForgotten) {
  RefinedFixture f({at::kFloat, 300, 1, 1, 1, 16}, 73);
  f.Index();
  const auto block = static_cast<int64_t>(f.table_[1]);
  const at::Tensor first = f.index_.key_means[block].clone();
  const int64_t work = f.work_.statistics_macs;
  f.kv_.k[block].fill_(1);
  f.Index();
  EXPECT_TRUE(at::equal(f.index_.key_means[block], first));
  EXPECT_EQ(f.work_.statistics_macs, work);
  f.index_.built[block] = 0;
  f.Index();
  EXPECT_FALSE(at::equal(f.index_.key_means[block], first));
}

TEST(PageIndexTest, TakesLessThanAFifthOfABFloat16Cache) {
  for (const int64_t d : {64, 128}) {
    const PageIndex index = PageIndex::Make(10, 3, d);
    EXPECT_LT(static_cast<double>(index.bytes()), 0.2 * 10 * 3 * 64 * d * 2 * 2);
  }
}

// The table is what the weights take it for.
TEST(DrawTest, BeatsAChanceWithItsProbability) {
  const int16_t* const draws = DrawTable();
  for (const int chance : {0, -1, -50, -128, -300, -640, -1000}) {
    int64_t below = 0;
    for (int64_t i = 0; i < kDraws; ++i) below += draws[i] < chance ? 1 : 0;
    const double wanted = std::exp2((chance - 0.5) / 128);
    EXPECT_NEAR(static_cast<double>(below) / kDraws / wanted, 1, 0.02) << chance;
  }
  for (int64_t i = 0; i < kDrawPadding; ++i) EXPECT_EQ(draws[kDraws + i], draws[i]);
}

TEST(DrawTest, StartsDifferByLayerHeadAndPosition) {
  EXPECT_NE(DrawStart(0, 0, 5), DrawStart(1, 0, 5));
  EXPECT_NE(DrawStart(0, 0, 5), DrawStart(0, 1, 5));
  EXPECT_NE(DrawStart(0, 0, 5), DrawStart(0, 0, 6));
}

}  // namespace
}  // namespace quire::kernels

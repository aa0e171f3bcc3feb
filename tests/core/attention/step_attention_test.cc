#include "core/attention/step_attention.h"

#include <gtest/gtest.h>

#include "tests/core/kernels/refined_fixture.h"

namespace quire {
namespace {

using kernels::RefinedFixture;
using kernels::RefinedShape;

constexpr RefinedShape kShape = {at::kFloat, 0, 700, 2, 2, 16};

class StepAttentionTest : public ::testing::Test {
 protected:
  StepAttentionTest() : f_(kShape, 5) {
    layer_ = {.shape = {4, 2, 16}, .scale = f_.Scale()};
  }

  // Rows [first, first + count) of the fixture's 700.
  at::Tensor Run(int64_t first, int64_t count, const AttentionOptions& options) {
    s_ = {.rows = f_.Rows(first, count), .options = options, .state = &state_};
    return Attend(f_.q_, f_.kv_, &f_.index_, layer_, absl::MakeSpan(&s_, 1))
        .narrow(0, first, count);
  }
  at::Tensor Dense(int64_t first, int64_t count) {
    at::Tensor out = f_.Out();
    kernels::DenseAttention(f_.q_, f_.kv_, f_.Rows(first, count), f_.Scale(), out);
    return out.narrow(0, first, count);
  }

  RefinedFixture f_;
  LayerAttention layer_;
  SequenceState state_;
  SequenceAttention s_;
};

AttentionOptions Mode(AttentionMode mode, float eps = 0.2f, int32_t from = -1) {
  AttentionOptions options;
  options.mode = mode;
  options.eps = eps;
  options.min_sparse_tokens = from;
  return options;
}

TEST_F(StepAttentionTest, AutoIsDenseBitForBitBelowItsThreshold) {
  // A row at position p sees p + 1 tokens.
  for (const int32_t from : {400, 401, 402}) {
    const AttentionOptions options = Mode(AttentionMode::kAuto, 0.2f, from);
    EXPECT_TRUE(at::equal(Run(0, from - 1, options), Dense(0, from - 1)));
    EXPECT_EQ(s_.stats.sparse_rows, 0);
    EXPECT_EQ(s_.stats.work.attention_macs, s_.stats.work.dense_macs);
    EXPECT_EQ(s_.stats.work.selection_macs + s_.stats.work.statistics_macs, 0);
    const at::Tensor beyond = Run(0, from + 3, options);
    EXPECT_EQ(s_.stats.sparse_rows, 4 * 4);
    EXPECT_TRUE(at::equal(beyond.narrow(0, 0, from - 1), Dense(0, from - 1)));
    EXPECT_FALSE(at::equal(beyond[from], Dense(from, 1)[0]));
  }
}

TEST_F(StepAttentionTest, ShortTextsAndNoErrorAreDense) {
  const int64_t all = kSinkTokens + kWindowTokens;
  EXPECT_TRUE(at::equal(Run(0, all, Mode(AttentionMode::kRefined)), Dense(0, all)));
  EXPECT_EQ(s_.stats.sparse_rows, 0);
  EXPECT_TRUE(at::equal(Run(0, 700, Mode(AttentionMode::kRefined, 0)), Dense(0, 700)));
  EXPECT_TRUE(at::equal(Run(0, 700, Mode(AttentionMode::kAuto)), Dense(0, 700)));
}

TEST_F(StepAttentionTest, AuditsAreTheTrueErrorOfEvery256thRow) {
  const AttentionOptions options = Mode(AttentionMode::kRefined);
  const at::Tensor out = Run(0, 700, options), dense = Dense(0, 700);
  double sum = 0, largest = 0, macs = 0;
  for (const int64_t row : {255, 511}) {
    const double error =
        ((out[row] - dense[row]).norm() / dense[row].norm()).item<double>();
    EXPECT_GT(error, 0);
    sum += error;
    largest = std::max(largest, error);
    macs += static_cast<double>(row + 1) * 4 * 2 * 16;
  }
  EXPECT_EQ(s_.stats.audits, 2);
  EXPECT_NEAR(s_.stats.audit_error, sum, 1e-3 * sum);
  EXPECT_NEAR(s_.stats.max_audit_error, largest, 1e-3 * largest);
  EXPECT_EQ(static_cast<double>(s_.stats.work.audit_macs), macs);
}

TEST_F(StepAttentionTest, ChunksChangeNothing) {
  const AttentionOptions options = Mode(AttentionMode::kRefined);
  const at::Tensor whole = Run(0, 700, options).clone();
  // Dense rows differ by rounding with the chunk; sparse rows do not.
  for (int64_t first = 0; first < 700; first += 100) {
    const at::Tensor part = Run(first, 100, options);
    EXPECT_LT((part - whole.narrow(0, first, 100)).abs().max().item<float>(),
              first < 192 ? 1e-5f : 1e-30f);
  }
}

TEST_F(StepAttentionTest, ABlockThatGetsANewFirstTokenGetsANewPage) {
  const AttentionOptions options = Mode(AttentionMode::kRefined);
  Run(0, 700, options);
  // Another sequence's tokens come to the same blocks.
  f_.k_.neg_();
  f_.v_.neg_();
  for (int64_t t = 0; t < 700; ++t) f_.Store(t);
  const at::Tensor reused = Run(0, 700, options).clone();
  std::fill(f_.index_.built.begin(), f_.index_.built.end(), 0);
  EXPECT_TRUE(at::equal(reused, Run(0, 700, options)));
}

TEST_F(StepAttentionTest, CountsDenseWorkByHand) {
  Run(300, 2, Mode(AttentionMode::kDense));
  const AttentionWork& w = s_.stats.work;
  EXPECT_EQ(w.dense_columns, 4 * (301 + 302));
  EXPECT_EQ(w.dense_macs, 4 * (301 + 302) * 2 * 16);
  EXPECT_EQ(w.dense_bytes, 302 * 2 * 2 * 16 * 4);  // one task; K and V of 2 heads
  EXPECT_EQ(w.executed_macs(), w.dense_macs);
  EXPECT_EQ(w.executed_bytes(), w.dense_bytes);
  EXPECT_EQ(w.columns, w.dense_columns);
}

TEST_F(StepAttentionTest, PagesWithoutWeightMayGo) {
  std::vector<BlockId> blocks(8, BlockId{0});
  SequenceAttention s = {.rows = {0, 128, 384, blocks}};
  // Pages 1 to 4 are far of the last row, at 511. Two layers, one head; sums of 64 rows.
  s.page_shares = {0, 0.64f, 6.4f, 0.064f, 0.64f, 0, 0, 0,
                   0, 0.64f, 0.0f, 0.640f, 1.28f, 0, 0, 0};
  EXPECT_EQ(PagesToDrop(s, 1, 0.005f), std::vector<int32_t>());
  EXPECT_EQ(PagesToDrop(s, 1, 0.011f), std::vector<int32_t>({1}));
  EXPECT_EQ(PagesToDrop(s, 1, 0.021f), std::vector<int32_t>({1, 3}));
  EXPECT_EQ(PagesToDrop(s, 1, 0.05f), std::vector<int32_t>({1, 3, 4}));
  EXPECT_EQ(PagesToDrop(s, 1, 1.0f), std::vector<int32_t>({1, 2, 3, 4}));
  blocks[1] = kNoBlock;
  EXPECT_EQ(PagesToDrop(s, 1, 0.011f), std::vector<int32_t>({3}));
}

TEST_F(StepAttentionTest, PageSharesAreThoseOfTheLastRows) {
  s_ = {.rows = f_.Rows(0, 700),
        .options = Mode(AttentionMode::kRefined),
        .state = &state_,
        .compact = true};
  Attend(f_.q_, f_.kv_, &f_.index_, layer_, absl::MakeSpan(&s_, 1));
  const auto blocks = static_cast<int64_t>(f_.table_.size());
  ASSERT_EQ(static_cast<int64_t>(s_.page_shares.size()), 2 * blocks);
  const int64_t page = 3, head = 1;
  double wanted = 0;
  for (int64_t row = 636; row < 700; ++row) {
    const int64_t window = kernels::WindowPage(row) * 64;
    const auto coded = f_.CodedKeys(head);
    std::vector<std::vector<double>> keys;
    for (int64_t t = 0; t <= row; ++t)
      keys.push_back(t >= 64 && t < window ? coded[t] : f_.Key(t, head));
    double largest = 0;
    for (int64_t r = 0; r < 2; ++r) {
      const auto shares = testing::Shares(f_.Query(row, head, r), f_.Scale(), keys);
      double sum = 0;
      for (int64_t t = page * 64; t < page * 64 + 64; ++t) sum += shares[t];
      largest = std::max(largest, sum);
    }
    wanted += largest;
  }
  EXPECT_NEAR(s_.page_shares[head * blocks + page], wanted, 1e-3 * wanted);
  EXPECT_EQ(s_.page_shares[head * blocks], 0);  // sinks are never far
}

}  // namespace
}  // namespace quire

#include <optional>

#include "tests/core/kernels/cuda/cuda_fixture.h"

namespace quire::kernels::cuda {
namespace {

using namespace quire::testing;

// Up to 2^18 float32 exponentials, added in 256 partial sums.
constexpr double kLogSumError = 1e-5;

class SummarizeRowsTest : public CudaTest {
 protected:
  struct Summary {
    std::vector<float> log_sum, best_logit, target_logit;
    std::vector<int32_t> best, larger;
  };

  Summary Run(const std::vector<float>& logits, int64_t vocab,
              const std::vector<int32_t>* targets) {
    const size_t rows = logits.size() / vocab;
    const DeviceBuffer<float> in(logits), log_sum(rows), best_logit(rows);
    const DeviceBuffer<float> target_logit(rows);
    const DeviceBuffer<int32_t> best(rows), larger(rows);
    const DeviceBuffer<int32_t> on_device(targets ? *targets
                                                  : std::vector<int32_t>(rows));
    RowSummary args;
    args.logits = in.get();
    args.rows = static_cast<int64_t>(rows);
    args.vocab = vocab;
    args.log_sum = log_sum.get();
    args.best = best.get();
    args.best_logit = best_logit.get();
    if (targets != nullptr) {
      args.targets = on_device.get();
      args.target_logit = target_logit.get();
      args.larger = larger.get();
    }
    Finish(SummarizeRows(args, stream_));
    ExpectSameBits(in.Download(), logits);
    return {log_sum.Download(), best_logit.Download(), target_logit.Download(),
            best.Download(), larger.Download()};
  }

  static void ExpectRow(const Summary& s, size_t row, const float* logits, int64_t vocab,
                        std::optional<int32_t> target) {
    const float* const best = std::max_element(logits, logits + vocab);  // the first
    double sum = 0;
    for (int64_t i = 0; i < vocab; ++i) sum += std::exp(double{logits[i]} - *best);
    const double log_sum = *best + std::log(sum);
    EXPECT_EQ(s.best[row], best - logits);
    EXPECT_EQ(s.best_logit[row], *best);
    EXPECT_NEAR(s.log_sum[row], log_sum, kLogSumError * std::max(1.0, std::abs(log_sum)));
    if (!target.has_value() || *target < 0) return;
    const float value = logits[*target];
    EXPECT_EQ(s.target_logit[row], value);
    EXPECT_EQ(s.larger[row],
              std::count_if(logits, logits + vocab, [&](float x) { return x > value; }));
  }
};

TEST_F(SummarizeRowsTest, WhatIsNoNumberCountsAsNothing) {
  Draw draw(77);
  std::vector<float> logits = draw.Floats(257, 5);
  for (const size_t i : {0, 100, 256}) logits[i] = NAN;
  const Summary s = Run(logits, 257, nullptr);
  for (float& x : logits) x = std::isnan(x) ? -INFINITY : x;
  ExpectRow(s, 0, logits.data(), 257, std::nullopt);
}

TEST_F(SummarizeRowsTest, RandomRowsWithAndWithoutTargets) {
  for (const int32_t vocab : {1, 7, 257, 49152, 151936}) {
    for (const int32_t rows : {1, 19}) {
      SCOPED_TRACE(::testing::Message() << "vocab " << vocab << ", rows " << rows);
      Draw draw(static_cast<uint32_t>(vocab + rows));
      const std::vector<float> logits = draw.Floats(size_t{1} * rows * vocab, 5);
      std::vector<int32_t> targets;
      for (int32_t i = 0; i < rows; ++i) {
        targets.push_back(i % 3 == 1 ? -1 : draw.Below(vocab));
      }
      targets[rows - 1] = vocab - 1;
      const Summary with = Run(logits, vocab, &targets);
      const Summary without = Run(logits, vocab, nullptr);
      for (int32_t row = 0; row < rows; ++row) {
        const float* const x = logits.data() + size_t{1} * row * vocab;
        ExpectRow(with, row, x, vocab, targets[row]);
        ExpectRow(without, row, x, vocab, std::nullopt);
      }
    }
  }
}

TEST_F(SummarizeRowsTest, TiesAreTheFirstAndEqualsAreNotLarger) {
  for (const int32_t vocab : {7, 49152}) {
    SCOPED_TRACE(vocab);
    std::vector<float> logits = Draw(5).Floats(3 * size_t{1} * vocab);
    float* const row = logits.data();
    row[vocab - 1] = row[3] = row[2] = 9;
    std::fill_n(row + vocab, vocab, -2.5f);  // all the same
    for (int32_t i = 0; i < vocab; ++i)
      row[2 * vocab + i] = i % 2 == 0 ? -INFINITY : 1.5f;
    const std::vector<int32_t> targets = {vocab - 1, vocab - 1, 0};
    const Summary s = Run(logits, vocab, &targets);
    for (int32_t i = 0; i < 3; ++i) {
      ExpectRow(s, i, row + size_t{1} * i * vocab, vocab, targets[i]);
    }
    EXPECT_EQ(s.best, (std::vector<int32_t>{2, 0, 1}));
    EXPECT_EQ(s.larger, (std::vector<int32_t>{0, 0, vocab / 2}));
  }
}

TEST_F(SummarizeRowsTest, LogitsFarFromZero) {
  for (const float shift : {-3e4f, 3e4f}) {
    SCOPED_TRACE(shift);
    std::vector<float> logits = Draw(6).Floats(49152);
    for (float& x : logits) x += shift;
    const std::vector<int32_t> targets = {77};
    ExpectRow(Run(logits, 49152, &targets), 0, logits.data(), 49152, 77);
  }
}

}  // namespace
}  // namespace quire::kernels::cuda

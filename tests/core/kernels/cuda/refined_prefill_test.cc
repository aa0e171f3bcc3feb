#include "core/kernels/cuda/refined_prefill.h"

#include <cmath>
#include <memory>
#include <ostream>

#include "tests/core/kernels/cuda/cuda_fixture.h"

namespace quire::testing {
namespace {

using kernels::cuda::kPageTokens;
using kernels::cuda::RefinedDecodeArgs;
using kernels::cuda::RefinedPrefillArgs;

struct Shape {
  int32_t dim, share, kv_heads;
  int64_t begin;
  int32_t rows;
};
void PrintTo(const Shape& s, std::ostream* out) {
  *out << "D" << s.dim << "R" << s.share << "G" << s.kv_heads << "B" << s.begin << "T"
       << s.rows;
}

// A prompt's chunk whose pages lie scattered; what nobody may use is NaN.
class Prompt {
 public:
  Prompt(const Shape& s, uint32_t seed, float q_deviation = 1) : shape(s) {
    Draw draw(seed);
    const auto pages_wanted =
        static_cast<int32_t>((s.begin + s.rows + kPageTokens - 1) / kPageTokens);
    pages = draw.Permutation(pages_wanted + 3);
    pages.resize(pages_wanted);
    const size_t page = size_t{1} * s.kv_heads * kPageTokens * s.dim;
    k.assign((pages_wanted + 3) * page, PoisonValue());
    v = k;
    q = draw.Bf16s(size_t{1} * s.rows * heads() * s.dim, q_deviation);
    for (int64_t token = 0; token < s.begin + s.rows; ++token) {
      for (int32_t g = 0; g < s.kv_heads; ++g) {
        const size_t at = CacheOffset(g, token);
        for (int32_t c = 0; c < s.dim; ++c) {
          // Some channels are large in every key, as models have them.
          k[at + c] = __float2bfloat16(draw.Normal() + (c % 16 == 3 ? 6.0f : 0.0f));
          v[at + c] = __float2bfloat16(draw.Normal());
        }
      }
    }
  }

  int32_t heads() const { return shape.share * shape.kv_heads; }
  float scale() const { return 1 / std::sqrt(static_cast<float>(shape.dim)); }
  size_t CacheOffset(int32_t head, int64_t token) const {
    return ((size_t{1} * pages[token / kPageTokens] * shape.kv_heads + head) *
                kPageTokens +
            token % kPageTokens) *
           shape.dim;
  }

  // Weights of a row's softmax, not divided by their sum.
  std::vector<double> Weights(int64_t row, int32_t head) const {
    std::vector<double> scores;
    const size_t at = (row * heads() + head) * size_t{1} * shape.dim;
    double high = -kInfinity;
    for (int64_t token = 0; token <= shape.begin + row; ++token) {
      const size_t key = CacheOffset(head / shape.share, token);
      double dot = 0;
      for (int32_t c = 0; c < shape.dim; ++c) {
        dot += AsDouble(q[at + c]) * AsDouble(k[key + c]);
      }
      scores.push_back(dot * scale());
      high = std::max(high, scores.back());
    }
    for (double& s : scores) s = std::exp(s - high);
    return scores;
  }

  // Dense attention: [rows, H, D].
  std::vector<double> Oracle() const {
    std::vector<double> out(q.size());
    for (int64_t row = 0; row < shape.rows; ++row) {
      for (int32_t head = 0; head < heads(); ++head) {
        const std::vector<double> weights = Weights(row, head);
        double* const to = out.data() + (row * heads() + head) * size_t{1} * shape.dim;
        double sum = 0;
        for (size_t token = 0; token < weights.size(); ++token) {
          const size_t value =
              CacheOffset(head / shape.share, static_cast<int64_t>(token));
          for (int32_t c = 0; c < shape.dim; ++c) {
            to[c] += weights[token] * AsDouble(v[value + c]);
          }
          sum += weights[token];
        }
        for (int32_t c = 0; c < shape.dim; ++c) to[c] /= sum;
      }
    }
    return out;
  }

  const Shape shape;
  std::vector<int32_t> pages;
  std::vector<Bf16> q, k, v;
};

class RefinedPrefillTest : public CudaTest, public ::testing::WithParamInterface<Shape> {
 protected:
  void SetUp() override {
    CudaTest::SetUp();
    if (IsSkipped()) return;
    int major = 0;
    cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0);
    if (major != 9) GTEST_SKIP() << "the device is not sm_90";
  }

  struct Result {
    std::vector<Bf16> out;
    RefinedDecodeArgs::Counts counts = {};
    std::vector<double> Values() const { return ToDoubles(out); }
  };

  void Load(const Prompt& p) {
    const Shape& s = p.shape;
    q_ = std::make_unique<DeviceBuffer<Bf16>>(p.q);
    k_ = std::make_unique<DeviceBuffer<Bf16>>(p.k);
    v_ = std::make_unique<DeviceBuffer<Bf16>>(p.v);
    pages_ = std::make_unique<DeviceBuffer<int32_t>>(p.pages);
    out_ = std::make_unique<DeviceBuffer<Bf16>>(p.q.size());
    counts_ = std::make_unique<DeviceBuffer<RefinedDecodeArgs::Counts>>(1);
    workspace_ = std::make_unique<DeviceBuffer<uint8_t>>(
        kernels::cuda::RefinedPrefillWorkspaceBytes(s.begin, s.rows, p.heads(),
                                                    s.kv_heads, s.dim));
  }

  void Run(const Prompt& p, float log2_tau, uint32_t seed, Result& result) {
    const Shape& s = p.shape;
    out_->Poison();
    workspace_->Poison();
    counts_->Zero();
    const RefinedPrefillArgs args = {.q = q_->get(),
                                     .k = k_->get(),
                                     .v = v_->get(),
                                     .pages = pages_->get(),
                                     .out = out_->get(),
                                     .begin = s.begin,
                                     .rows = s.rows,
                                     .query_heads = p.heads(),
                                     .kv_heads = s.kv_heads,
                                     .head_dim = s.dim,
                                     .scale = p.scale(),
                                     .log2_tau = log2_tau,
                                     .seed = seed,
                                     .workspace = workspace_->get(),
                                     .counts = counts_->get()};
    Finish(kernels::cuda::RefinedPrefill(args, stream_));
    result.out = out_->Download();
    result.counts = counts_->Download()[0];
  }

  std::unique_ptr<DeviceBuffer<Bf16>> q_, k_, v_, out_;
  std::unique_ptr<DeviceBuffer<int32_t>> pages_;
  std::unique_ptr<DeviceBuffer<RefinedDecodeArgs::Counts>> counts_;
  std::unique_ptr<DeviceBuffer<uint8_t>> workspace_;
};

constexpr double kTwo32 = 4294967296.0;
constexpr float kEverything = -60;  // log2 of eps^2 at which every key is sure

// Inner products of up to 128 bfloat16 values, weights rounded to bfloat16: .5 %.
constexpr double kDenseTolerance = 5e-3;

// With eps near 0 every far key is chosen for certain, or the lists are too short and the
// tile reads all: dense attention.
TEST_P(RefinedPrefillTest, IsDenseAttentionWhenEveryKeyIsRead) {
  const Prompt prompt(GetParam(), 1);
  Load(prompt);
  Result result;
  Run(prompt, kEverything, 0, result);
  EXPECT_LT(RelativeL2(result.Values(), prompt.Oracle()), kDenseTolerance);
  const double rows = 1.0 * GetParam().rows * prompt.heads();
  EXPECT_NEAR(static_cast<double>(result.counts.coverage) / kTwo32, rows, 1e-3 * rows);
}

// One draw is off by about eps for each row; the mean of many comes near dense attention,
// as estimates without bias do: numerator and denominator are, so the rest of their
// ratio's bias is of the order of eps^2.
TEST_P(RefinedPrefillTest, TheMeanOfManyDrawsIsDenseAttention) {
  const Prompt prompt(GetParam(), 2, 2);
  Load(prompt);
  const std::vector<double> dense = prompt.Oracle();
  const double eps = .15;
  constexpr int kRuns = 48;
  std::vector<double> mean(dense.size());
  double single = 0;
  for (int run = 0; run < kRuns; ++run) {
    Result result;
    Run(prompt, static_cast<float>(2 * std::log2(eps)), 1000 + run, result);
    const std::vector<double> values = result.Values();
    for (size_t i = 0; i < mean.size(); ++i) mean[i] += values[i] / kRuns;
    single += RelativeL2(values, dense) / kRuns;
  }
  const double averaged = RelativeL2(mean, dense);
  std::printf("one draw %.4f, the mean of %d %.4f\n", single, kRuns, averaged);
  EXPECT_LT(averaged, single / 4 + kDenseTolerance);
}

// The columns that are read are as many as the rule says, from exact shares of the whole
// softmax: the kernel's grow while keys pass by, so it reads more, but not many more.
TEST_P(RefinedPrefillTest, ReadsAsManyColumnsAsTheRuleAsksFor) {
  const Shape& s = GetParam();
  const Prompt prompt(s, 3, 2);
  Load(prompt);
  const double tau = .02;
  Result result;
  Run(prompt, static_cast<float>(std::log2(tau)), 5, result);
  const int tokens = kernels::cuda::TileTokens(s.share);
  double wanted = 0;  // columns times rows
  for (int64_t first = s.begin / tokens * tokens; first < s.begin + s.rows;
       first += tokens) {
    const int64_t window = kernels::cuda::TileWindowPage(first, s.share);
    for (int32_t g = 0; g < s.kv_heads; ++g) {
      std::vector<double> largest(window * kPageTokens);
      int64_t rows = 0;
      for (int64_t row = std::max<int64_t>(0, first - s.begin);
           row < std::min<int64_t>(s.rows, first + tokens - s.begin); ++row) {
        for (int32_t r = 0; r < s.share; ++r) {
          const std::vector<double> weights = prompt.Weights(row, g * s.share + r);
          double sum = 0;
          for (const double w : weights) sum += w;
          for (size_t i = kPageTokens; i < largest.size(); ++i) {
            largest[i] = std::max(largest[i], weights[i] / sum);
          }
          ++rows;
        }
      }
      for (const double p : largest) wanted += std::min(1.0, p / tau) * rows;
    }
  }
  const auto read = static_cast<double>(result.counts.columns);
  std::printf("%.0f columns, by exact shares %.0f\n", read, wanted);
  EXPECT_GE(read, .8 * wanted);
  EXPECT_LE(read, 3 * wanted + 1e-9);
}

TEST_P(RefinedPrefillTest, TheSameBitsAgain) {
  const Prompt prompt(GetParam(), 4, 2);
  Load(prompt);
  Result first, second;
  Run(prompt, -6, 7, first);
  Run(prompt, -6, 7, second);
  ExpectSameBits(first.out, second.out);
  EXPECT_EQ(first.counts.columns, second.counts.columns);
  EXPECT_EQ(first.counts.coverage, second.counts.coverage);
  EXPECT_EQ(first.counts.risk, second.counts.risk);
}

// What was chosen with little doubt must carry the attention: a key that a row is sure to
// want is there in every draw.
TEST_P(RefinedPrefillTest, AKeyThatARowNeedsIsAlwaysFound) {
  const Shape& s = GetParam();
  Prompt prompt(s, 5);
  const int64_t row = s.rows - 1;
  if (s.begin + row < 500) return;  // nothing is far
  const int64_t needle = 100;
  for (int32_t g = 0; g < s.kv_heads; ++g) {
    const size_t key = prompt.CacheOffset(g, needle);
    for (int32_t c = 0; c < s.dim; ++c) {
      const size_t at = ((row * prompt.heads()) + g * s.share) * size_t{1} * s.dim + c;
      prompt.k[key + c] = __float2bfloat16(2.0f * __bfloat162float(prompt.q[at]) +
                                           (c % 16 == 3 ? 6.0f : 0.0f));
    }
  }
  Load(prompt);
  const std::vector<double> dense = prompt.Oracle();
  for (uint32_t seed = 0; seed < 8; ++seed) {
    Result result;
    Run(prompt, static_cast<float>(2 * std::log2(.1)), seed, result);
    const std::vector<double> values = result.Values();
    for (int32_t g = 0; g < s.kv_heads; ++g) {
      const size_t at = ((row * prompt.heads()) + g * s.share) * size_t{1} * s.dim;
      EXPECT_LT(RelativeL2({values.begin() + at, values.begin() + at + s.dim},
                           {dense.begin() + at, dense.begin() + at + s.dim}),
                .05);
    }
  }
}

// Tails, one token, chunks that begin within a tile or a page, nothing far, every number
// of heads that may share a key.
INSTANTIATE_TEST_SUITE_P(
    Shapes, RefinedPrefillTest,
    ::testing::Values(Shape{128, 4, 2, 0, 1500}, Shape{128, 4, 1, 1337, 200},
                      Shape{128, 1, 2, 900, 300}, Shape{128, 8, 1, 2000, 64},
                      Shape{64, 3, 3, 1100, 333}, Shape{64, 2, 1, 1999, 1},
                      Shape{64, 5, 1, 1000, 77}, Shape{64, 1, 1, 0, 100},
                      Shape{128, 4, 1, 448, 64}),
    ::testing::PrintToStringParamName());

}  // namespace
}  // namespace quire::testing

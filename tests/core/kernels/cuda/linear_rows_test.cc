#include <ostream>

#include "tests/core/kernels/cuda/cuda_fixture.h"

namespace quire::kernels::cuda {
namespace {

using namespace quire::testing;

// Products of bfloat16 are exact in float32; each of the up to 172 additions of a warp
// loses at most 2^-22 of a sum of some 100. A warp of the kernel that streams adds fewer.
constexpr double kSumError = 4e-3;

struct Shape {
  int64_t rows, in, features;
};
void PrintTo(const Shape& s, std::ostream* out) {
  *out << "T" << s.rows << "K" << s.in << "N" << s.features;
}

class LinearRowsTest : public CudaTest, public ::testing::WithParamInterface<Shape> {
 protected:
  void SetUp() override {
    CudaTest::SetUp();
    if (IsSkipped()) return;
    const Shape& s = GetParam();
    Draw draw(static_cast<uint32_t>(s.rows + 31 * s.in + 7 * s.features));
    x_ = draw.Bf16s(static_cast<size_t>(s.rows * s.in));
    weight_ = draw.Bf16s(static_cast<size_t>(2 * s.features * s.in));
    bias_ = draw.Bf16s(static_cast<size_t>(2 * s.features));
  }

  // Of features [first, first + N).
  std::vector<double> Expected(bool biased, int64_t first = 0) const {
    const Shape& s = GetParam();
    const std::vector<double> x = ToDoubles(x_), weight = ToDoubles(weight_);
    std::vector<double> out;
    for (int64_t row = 0; row < s.rows; ++row) {
      for (int64_t f = first; f < first + s.features; ++f) {
        double sum = biased ? __bfloat162float(bias_[f]) : 0;
        for (int64_t i = 0; i < s.in; ++i)
          sum += x[row * s.in + i] * weight[f * s.in + i];
        out.push_back(sum);
      }
    }
    return out;
  }

  // The first `rows` rows.
  template <typename Out>
  std::vector<Out> Run(int64_t rows, bool biased, bool gated = false) {
    const Shape& s = GetParam();
    const std::vector<Bf16> part(x_.begin(), x_.begin() + rows * s.in);
    const DeviceBuffer<Bf16> x(part), weight(weight_), bias(bias_);
    const DeviceBuffer<Out> out(static_cast<size_t>(rows * s.features));
    LinearArgs args;
    args.x = x.get();
    args.weight = weight.get();
    args.bias = biased ? bias.get() : nullptr;
    args.out = out.get();
    args.float_out = std::is_same_v<Out, float>;
    args.gated = gated;
    args.rows = rows;
    args.in = s.in;
    args.features = s.features;
    EXPECT_TRUE(HasLinearKernel(rows, s.in, s.features));
    Finish(LinearRows(args, stream_));
    return out.Download();
  }

  std::vector<Bf16> x_, weight_, bias_;
};

TEST_P(LinearRowsTest, AgainstDoubles) {
  const Shape& s = GetParam();
  for (const bool biased : {false, true}) {
    const std::vector<double> expected = Expected(biased);
    ExpectClose(ToDoubles(Run<float>(s.rows, biased)), expected, 0, kSumError);
    ExpectClose(ToDoubles(Run<Bf16>(s.rows, biased)), expected, kBf16Rounding, kSumError);
  }
}

TEST_P(LinearRowsTest, GatedAgainstDoubles) {
  const Shape& s = GetParam();
  for (const bool biased : {false, true}) {
    const std::vector<double> gate = Expected(biased), up = Expected(biased, s.features);
    std::vector<double> expected;
    double largest = 1;
    for (size_t i = 0; i < gate.size(); ++i) {
      expected.push_back(gate[i] / (1 + std::exp(-gate[i])) * up[i]);
      largest = std::max({largest, std::abs(gate[i]), std::abs(up[i])});
    }
    // Either factor may be off by a sum's error.
    ExpectClose(ToDoubles(Run<Bf16>(s.rows, biased, true)), expected, kBf16Rounding,
                3 * kSumError * largest);
  }
}

TEST_P(LinearRowsTest, ARowGetsTheSameBitsAloneAndWithOthers) {
  const Shape& s = GetParam();
  std::vector<float> all = Run<float>(s.rows, false);
  ExpectSameBits(Run<float>(s.rows, false), all);
  all.resize(static_cast<size_t>(s.features));
  ExpectSameBits(Run<float>(1, false), all);
}

std::vector<Shape> Shapes() {
  std::vector<Shape> shapes;
  for (const int64_t rows : {1, 2, 7, 8, 9, 16}) {
    for (const int64_t in : {32, 96, 576, 1536}) shapes.push_back({rows, in, 40});
    shapes.push_back({rows, 4096, 264});
    shapes.push_back({rows, 11008, 8});
  }
  // Weights that are streamed: stages and groups that are not full, one group and several
  // of a block; and a group for each of a few blocks less than multiprocessors.
  for (const int64_t rows : {1, 8, 9, 16}) {
    shapes.push_back({rows, 1056, 3400});
    shapes.push_back({rows, 576, 9000});
    shapes.push_back({rows, 11008, 320});
    shapes.push_back({rows, 800, 4096});
  }
  return shapes;
}
INSTANTIATE_TEST_SUITE_P(Shapes, LinearRowsTest, ::testing::ValuesIn(Shapes()),
                         ::testing::PrintToStringParamName());

// What is read for the next stage must not take the place of what is still being read.
TEST_F(CudaTest, StreamedLinearsHaveTheSameBitsEveryTime) {
  constexpr int64_t kRows = 16, kIn = 4096, kFeatures = 4096;
  Draw draw(1);
  const DeviceBuffer<Bf16> x(draw.Bf16s(kRows * kIn)),
      weight(draw.Bf16s(kFeatures * kIn));
  const DeviceBuffer<float> out(kRows * kFeatures);
  const LinearArgs args = {.x = x.get(),
                           .weight = weight.get(),
                           .out = out.get(),
                           .float_out = true,
                           .rows = kRows,
                           .in = kIn,
                           .features = kFeatures};
  std::vector<float> first;
  for (int i = 0; i < 100; ++i) {
    Finish(LinearRows(args, stream_));
    if (i == 0) first = out.Download();
    ASSERT_NO_FATAL_FAILURE(ExpectSameBits(out.Download(), first)) << "launch " << i;
  }
}

TEST(LinearRowsWithoutAKernel, AreNamed) {
  EXPECT_TRUE(HasLinearKernel(16, 64, 8));
  EXPECT_FALSE(HasLinearKernel(17, 64, 8));
  EXPECT_FALSE(HasLinearKernel(1, 48, 8));
  EXPECT_FALSE(HasLinearKernel(1, 64, 12));
  EXPECT_FALSE(StreamsLinear(1 << 20));
}

}  // namespace
}  // namespace quire::kernels::cuda

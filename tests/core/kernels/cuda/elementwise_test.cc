#include "tests/core/kernels/cuda/cuda_fixture.h"

namespace quire::kernels::cuda {
namespace {

using namespace quire::testing;

// An exponential and a division in float32, or a sum of squares and rsqrt: far below the
// rounding of the bfloat16 result, which is the tolerance. Values below this are as good
// as 0.
constexpr double kTiny = 1e-30;

using EmbedRowsTest = CudaTest;
using AddRowsTest = CudaTest;
using SiluMulTest = CudaTest;

class AddRmsNormTest : public CudaTest {
 protected:
  struct Result {
    std::vector<float> residual;
    std::vector<Bf16> out;
  };

  Result Run(const std::vector<float>& residual, const std::vector<Bf16>* update,
             const std::vector<float>& weight, float eps) {
    const int64_t hidden = static_cast<int64_t>(weight.size());
    const DeviceBuffer<float> on_device(residual), weights(weight);
    const DeviceBuffer<Bf16> updates(update == nullptr ? std::vector<Bf16>(1) : *update);
    const DeviceBuffer<Bf16> out(residual.size());
    Finish(AddRmsNorm(on_device.get(), update == nullptr ? nullptr : updates.get(),
                      weights.get(), eps, static_cast<int64_t>(residual.size()) / hidden,
                      hidden, out.get(), stream_));
    return {on_device.Download(), out.Download()};
  }
};

std::vector<double> NormOracle(const std::vector<float>& x,
                               const std::vector<float>& weight, double eps) {
  const size_t hidden = weight.size();
  std::vector<double> out(x.size());
  for (size_t row = 0; row < x.size(); row += hidden) {
    double squares = 0;
    for (size_t i = 0; i < hidden; ++i) squares += double{x[row + i]} * x[row + i];
    const double rms = std::sqrt(squares / static_cast<double>(hidden) + eps);
    for (size_t i = 0; i < hidden; ++i) out[row + i] = x[row + i] / rms * weight[i];
  }
  return out;
}

// The sum that the residual stream must hold, to the bit.
std::vector<float> Sum(std::vector<float> x, const std::vector<Bf16>& update) {
  for (size_t i = 0; i < x.size(); ++i) x[i] += __bfloat162float(update[i]);
  return x;
}

TEST_F(EmbedRowsTest, RowsAreTheTablesToTheBit) {
  constexpr int32_t kVocab = 301;
  for (const int64_t hidden : {8, 576, 2056, 4096, 8184, 16384}) {
    for (const int32_t rows : {1, 77}) {
      SCOPED_TRACE(::testing::Message() << "hidden " << hidden << ", rows " << rows);
      Draw draw(static_cast<uint32_t>(hidden + rows));
      const std::vector<Bf16> table = draw.Bf16s(kVocab * hidden);
      std::vector<int32_t> tokens;
      for (int32_t i = 0; i < rows; ++i) tokens.push_back(draw.Below(kVocab));
      tokens[0] = kVocab - 1;
      tokens[rows - 1] = tokens[0];  // twice in one step
      std::vector<float> expected;
      for (const int32_t token : tokens) {
        for (int64_t i = 0; i < hidden; ++i) {
          expected.push_back(__bfloat162float(table[token * hidden + i]));
        }
      }
      const DeviceBuffer<Bf16> table_on_device(table);
      const DeviceBuffer<int32_t> tokens_on_device(tokens);
      const DeviceBuffer<float> residual(expected.size());
      Finish(EmbedRows(table_on_device.get(), tokens_on_device.get(), rows, hidden,
                       residual.get(), stream_));
      ExpectSameBits(residual.Download(), expected);
    }
  }
}

TEST_F(AddRmsNormTest, WithUpdateTheResidualIsTheFloatSum) {
  for (const size_t hidden : {8, 576, 2048, 4096}) {
    for (const size_t rows : {1, 5, 133}) {
      SCOPED_TRACE(::testing::Message() << "hidden " << hidden << ", rows " << rows);
      Draw draw(static_cast<uint32_t>(hidden + rows));
      const std::vector<float> residual = draw.Floats(rows * hidden, 3);
      const std::vector<Bf16> update = draw.Bf16s(rows * hidden);
      const std::vector<float> weight = draw.Floats(hidden);
      const Result result = Run(residual, &update, weight, 1e-5f);
      const std::vector<float> sum = Sum(residual, update);
      ExpectSameBits(result.residual, sum);
      ExpectClose(ToDoubles(result.out), NormOracle(sum, weight, 1e-5f), kBf16Rounding,
                  kTiny);
    }
  }
}

TEST_F(AddRmsNormTest, WithoutUpdateTheResidualStays) {
  for (const size_t hidden : {8, 576, 2056, 4096, 8184, 16384}) {
    SCOPED_TRACE(hidden);
    Draw draw(static_cast<uint32_t>(hidden));
    const std::vector<float> residual = draw.Floats(7 * hidden);
    const std::vector<float> weight = draw.Floats(hidden);
    const Result result = Run(residual, nullptr, weight, 1e-6f);
    ExpectSameBits(result.residual, residual);
    ExpectClose(ToDoubles(result.out), NormOracle(residual, weight, 1e-6f), kBf16Rounding,
                kTiny);
  }
}

// Where eps is as large as the mean of squares, and where squares are near float32's end.
TEST_F(AddRmsNormTest, SmallAndLargeRows) {
  for (const float deviation : {1e-3f, 1e15f}) {
    SCOPED_TRACE(deviation);
    Draw draw(11);
    const std::vector<float> residual = draw.Floats(3 * 576, deviation);
    const std::vector<float> weight = draw.Floats(576);
    ExpectClose(ToDoubles(Run(residual, nullptr, weight, 1e-6f).out),
                NormOracle(residual, weight, 1e-6f), kBf16Rounding, kTiny);
  }
}

TEST_F(AddRowsTest, IsTheFloatSum) {
  for (const size_t size : {size_t{8}, size_t{2040}, size_t{2048}, size_t{2056},
                            size_t{7 * 576}, size_t{133 * 4096}}) {
    SCOPED_TRACE(size);
    Draw draw(static_cast<uint32_t>(size));
    const std::vector<float> residual = draw.Floats(size, 5);
    const std::vector<Bf16> update = draw.Bf16s(size);
    const DeviceBuffer<float> on_device(residual);
    const DeviceBuffer<Bf16> updates(update);
    Finish(AddRows(on_device.get(), updates.get(), static_cast<int64_t>(size), stream_));
    ExpectSameBits(on_device.Download(), Sum(residual, update));
  }
}

TEST_F(SiluMulTest, AgainstDoubles) {
  for (const size_t inner : {8, 1408, 1536, 11008}) {
    for (const size_t rows : {1, 3, 65}) {
      SCOPED_TRACE(::testing::Message() << "inner " << inner << ", rows " << rows);
      Draw draw(static_cast<uint32_t>(inner + rows));
      std::vector<Bf16> gate_up = draw.Bf16s(rows * 2 * inner, 2);
      // exp overflows, and the gate is shut; the other way it is the identity.
      gate_up[0] = __float2bfloat16(-100.0f);
      gate_up[1] = __float2bfloat16(100.0f);
      std::vector<double> expected;
      for (size_t row = 0; row < rows; ++row) {
        for (size_t i = 0; i < inner; ++i) {
          const double gate = __bfloat162float(gate_up[row * 2 * inner + i]);
          const double up = __bfloat162float(gate_up[row * 2 * inner + inner + i]);
          expected.push_back(gate / (1 + std::exp(-gate)) * up);
        }
      }
      const DeviceBuffer<Bf16> in(gate_up), out(rows * inner);
      Finish(SiluMul(in.get(), static_cast<int64_t>(rows), static_cast<int64_t>(inner),
                     out.get(), stream_));
      ExpectClose(ToDoubles(out.Download()), expected, kBf16Rounding, kTiny);
      ExpectSameBits(in.Download(), gate_up);
    }
  }
}

}  // namespace
}  // namespace quire::kernels::cuda

#include <gtest/gtest.h>

#include <cmath>

#include "ATen/ops/zeros.h"
#include "core/kernels/kernels.h"
#include "tests/core/kernels/random_tensor.h"

namespace quire::kernels {
namespace {

using testing::RandomTensor;
using testing::RelativeError;
using testing::ToDoubles;

std::vector<at::ScalarType> Types() {
  if (HasFastBFloat16()) return {at::kFloat, at::kBFloat16};
  return {at::kFloat};
}
double Tolerance(at::ScalarType type) { return type == at::kFloat ? 1e-5 : 5e-3; }

TEST(RmsNormTest, EqualsPlainLoops) {
  for (const at::ScalarType type : Types()) {
    for (const int64_t width : {16, 64, 70, 576}) {
      const at::Tensor x = RandomTensor({17, width}, at::kFloat, 1, 30);
      const at::Tensor w = RandomTensor({width}, at::kFloat, 2);
      const std::vector<double> xs = ToDoubles(x), ws = ToDoubles(w);
      std::vector<double> wanted(xs.size());
      for (int64_t r = 0; r < 17; ++r) {
        double squares = 0;
        for (int64_t i = 0; i < width; ++i)
          squares += xs[r * width + i] * xs[r * width + i];
        for (int64_t i = 0; i < width; ++i) {
          wanted[r * width + i] =
              xs[r * width + i] / std::sqrt(squares / width + 1e-5) * ws[i];
        }
      }
      EXPECT_LT(RelativeError(ToDoubles(RmsNorm(x, w, 1e-5, type)), wanted),
                Tolerance(type));
    }
  }
}

TEST(SiluMulTest, EqualsPlainLoopsFarFromZeroToo) {
  for (const at::ScalarType type : Types()) {
    for (const int64_t width : {16, 24, 1536}) {
      const at::Tensor x = RandomTensor({19, 2 * width}, type, 3, 20);
      const std::vector<double> xs = ToDoubles(x);
      std::vector<double> wanted(19 * width);
      for (int64_t r = 0; r < 19; ++r) {
        for (int64_t i = 0; i < width; ++i) {
          const double gate = xs[r * 2 * width + i];
          wanted[r * width + i] =
              gate / (1 + std::exp(-gate)) * xs[r * 2 * width + width + i];
        }
      }
      EXPECT_LT(RelativeError(ToDoubles(SiluMul(x)), wanted), Tolerance(type));
    }
  }
}

TEST(RopeAndStoreTest, RotatesNormalisesAndWritesToTheRightPlaces) {
  const HeadShape shape = {4, 2, 8};
  for (const at::ScalarType type : Types()) {
    for (const bool norm : {false, true}) {
      const int64_t rows = 5, begin = 14;
      const at::Tensor qkv = RandomTensor({rows, (4 + 2 * 2) * 8}, type, 4);
      const RopeTable rope = {RandomTensor({5, 4}, at::kFloat, 5),
                              RandomTensor({5, 4}, at::kFloat, 6)};
      const at::Tensor q_norm = norm ? RandomTensor({8}, at::kFloat, 7) : at::Tensor();
      const at::Tensor k_norm = norm ? RandomTensor({8}, at::kFloat, 8) : at::Tensor();
      PagedKv kv = {at::zeros({3, 2, 16, 8}, type), at::zeros({3, 2, 16, 8}, type)};
      const std::vector<BlockId> blocks = {BlockId{2}, BlockId{0}};
      const SequenceRows sequence = {0, rows, begin, blocks};
      const std::vector<double> q = ToDoubles(
          RopeAndStore(qkv, shape, rope, q_norm, k_norm, 1e-6f, {sequence}, kv));
      const std::vector<double> k = ToDoubles(kv.k), v = ToDoubles(kv.v),
                                in = ToDoubles(qkv);
      const std::vector<double> cos = ToDoubles(rope.cos), sin = ToDoubles(rope.sin);
      const auto rotated = [&](int64_t row, int64_t head, int64_t i,
                               const at::Tensor& w) {
        const double* x = &in[(row * 8 + head) * 8];
        double inverse = 1;
        if (w.defined()) {
          double squares = 0;
          for (int64_t j = 0; j < 8; ++j) squares += x[j] * x[j];
          inverse = 1 / std::sqrt(squares / 8 + 1e-6);
        }
        const auto at = [&](int64_t j) {
          return x[j] * inverse * (w.defined() ? w.const_data_ptr<float>()[j] : 1.0);
        };
        const double c = cos[row * 4 + i % 4], s = sin[row * 4 + i % 4];
        return i < 4 ? at(i) * c - at(i + 4) * s : at(i) * c + at(i - 4) * s;
      };
      for (int64_t row = 0; row < rows; ++row) {
        const int64_t position = begin + row;
        const int64_t block = position < 16 ? 2 : 0;
        for (int64_t i = 0; i < 8; ++i) {
          for (int64_t h = 0; h < 4; ++h) {
            EXPECT_NEAR(q[((h / 2 * rows + row) * 2 + h % 2) * 8 + i],
                        rotated(row, h, i, q_norm), 10 * Tolerance(type));
          }
          for (int64_t g = 0; g < 2; ++g) {
            const int64_t at = ((block * 2 + g) * 16 + position % 16) * 8 + i;
            EXPECT_NEAR(k[at], rotated(row, 4 + g, i, k_norm), 10 * Tolerance(type));
            EXPECT_EQ(v[at], in[(row * 8 + 6 + g) * 8 + i]);
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace quire::kernels

#include <gtest/gtest.h>

#include "core/kernels/kernels.h"
#include "tests/core/kernels/random_tensor.h"

namespace quire::kernels {
namespace {

using testing::RandomTensor;
using testing::RelativeError;
using testing::ToDoubles;

struct Case {
  at::ScalarType type;
  int64_t rows, in, out;
  bool bias;
};

std::vector<double> Oracle(const Case& c, const at::Tensor& x, const at::Tensor& w,
                           const at::Tensor& bias, const std::vector<double>& start) {
  const std::vector<double> xs = ToDoubles(x), ws = ToDoubles(w.to(c.type));
  std::vector<double> y = start;
  for (int64_t r = 0; r < c.rows; ++r) {
    for (int64_t o = 0; o < c.out; ++o) {
      double& sum = y[r * c.out + o];
      if (c.bias) sum += bias.const_data_ptr<float>()[o];
      for (int64_t i = 0; i < c.in; ++i) sum += xs[r * c.in + i] * ws[o * c.in + i];
    }
  }
  return y;
}

class LinearTest : public ::testing::TestWithParam<Case> {};

TEST_P(LinearTest, EveryWayOfStoringEqualsPlainLoops) {
  const Case& c = GetParam();
  if (c.type == at::kBFloat16 && !HasFastBFloat16())
    GTEST_SKIP() << "no AVX512-BF16 here";
  const at::Tensor x = RandomTensor({c.rows, c.in}, c.type, 1);
  const at::Tensor w = RandomTensor({c.out, c.in}, at::kFloat, 2);
  const at::Tensor bias = c.bias ? RandomTensor({c.out}, at::kFloat, 3) : at::Tensor();
  const Linear linear = Linear::Pack(w, bias, c.type);
  const std::vector<double> wanted =
      Oracle(c, x, w, bias, std::vector<double>(c.rows * c.out, 0.0));
  EXPECT_LT(RelativeError(ToDoubles(linear.ApplyF32(x)), wanted), 1e-5);
  EXPECT_LT(RelativeError(ToDoubles(linear.Apply(x)), wanted),
            c.type == at::kFloat ? 1e-5 : 5e-3);
  at::Tensor sum = RandomTensor({c.rows, c.out}, at::kFloat, 4);
  const std::vector<double> start = ToDoubles(sum);
  linear.AddTo(x, sum);
  EXPECT_LT(RelativeError(ToDoubles(sum), Oracle(c, x, w, bias, start)), 1e-5);
}

std::vector<Case> Cases() {
  std::vector<Case> cases;
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    for (const int64_t rows : {1, 2, 5, 6, 7, 13, 241}) {
      cases.push_back({type, rows, 64, 64, false});
      cases.push_back({type, rows, 194, 130, true});
      cases.push_back({type, rows, 386, 1, true});
      cases.push_back({type, rows, 2, 77, false});
    }
  }
  return cases;
}
INSTANTIATE_TEST_SUITE_P(Shapes, LinearTest, ::testing::ValuesIn(Cases()));

TEST(LinearRowsTest, AreTheWeightsOfTheNamedRows) {
  const at::Tensor w = RandomTensor({130, 18}, at::kFloat, 5);
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    if (type == at::kBFloat16 && !HasFastBFloat16()) continue;
    const std::vector<TokenId> ids = {129, 0, 64, 63, 64};
    const std::vector<double> rows = ToDoubles(Linear::Pack(w, {}, type).Rows(ids));
    const std::vector<double> all = ToDoubles(w.to(type));
    for (size_t i = 0; i < ids.size(); ++i) {
      for (int64_t j = 0; j < 18; ++j) EXPECT_EQ(rows[i * 18 + j], all[ids[i] * 18 + j]);
    }
  }
}

}  // namespace
}  // namespace quire::kernels

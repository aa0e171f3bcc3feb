#include "core/model/cuda_prefill.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>

#include "ATen/TensorOperators.h"
#include "ATen/ops/arange.h"
#include "ATen/ops/empty.h"
#include "ATen/ops/full.h"
#include "ATen/ops/matmul.h"
#include "ATen/ops/tensor.h"
#include "core/runner/probe_cuda.h"
#include "tests/core/kernels/random_tensor.h"

namespace quire {
namespace {

using testing::RandomTensor;

constexpr int64_t kPage = 64;
constexpr int64_t kBefore = 3, kAfter = 2;  // rows of others in the step
// Relative L2: parts and results are bfloat16, sums float32.
constexpr double kTolerance = 6e-3;

struct Case {
  int64_t begin, rows, heads, kv_heads, d;
};
std::ostream& operator<<(std::ostream& out, const Case& c) {
  return out << "begin" << c.begin << "_rows" << c.rows << "_h" << c.heads << "_g"
             << c.kv_heads << "_d" << c.d;
}

// A sequence's cache in shuffled pages; what is behind its end is NaN.
struct Paged {
  at::Tensor keys, values;  // [G, tokens, D]
  at::Tensor k, v;          // [num_blocks, G, kPage, D]
  at::Tensor pages;         // [pages] int32
};

Paged MakePaged(const Case& c, at::Device device) {
  const int64_t tokens = c.begin + c.rows, pages = (tokens + kPage - 1) / kPage;
  std::vector<int32_t> order(static_cast<size_t>(pages + 5));
  for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<int32_t>(i);
  std::shuffle(order.begin(), order.end(), std::mt19937(5));
  order.resize(static_cast<size_t>(pages));
  Paged p;
  p.keys = RandomTensor({c.kv_heads, tokens, c.d}, at::kBFloat16, 1).to(device);
  p.values = RandomTensor({c.kv_heads, tokens, c.d}, at::kBFloat16, 2).to(device);
  p.pages = at::tensor(order, at::kInt).to(device);
  const at::Tensor index = p.pages.to(at::kLong);
  const auto paged = [&](const at::Tensor& side) {
    const at::Tensor padded =
        at::full({c.kv_heads, pages * kPage, c.d}, NAN, side.options());
    padded.narrow(1, 0, tokens).copy_(side);
    const at::Tensor blocks =
        at::full({pages + 5, c.kv_heads, kPage, c.d}, NAN, side.options());
    blocks.index_copy_(0, index,
                       padded.view({c.kv_heads, pages, kPage, c.d}).transpose(0, 1));
    return blocks;
  };
  p.k = paged(p.keys);
  p.v = paged(p.values);
  return p;
}

// In float32, a head at a time: q [rows, H, D] -> [rows, H, D].
at::Tensor Reference(const Case& c, const at::Tensor& q, const Paged& p, double scale) {
  const int64_t tokens = c.begin + c.rows, share = c.heads / c.kv_heads;
  const auto longs = q.options().dtype(at::kLong);
  const at::Tensor hidden = at::arange(tokens, longs).view({1, tokens}) >
                            at::arange(c.begin, tokens, longs).view({c.rows, 1});
  const at::Tensor out = at::empty(q.sizes(), q.options().dtype(at::kFloat));
  for (int64_t h = 0; h < c.heads; ++h) {
    const at::Tensor scores =
        at::matmul(q.select(1, h).to(at::kFloat), p.keys[h / share].to(at::kFloat).t())
            .mul(scale)
            .masked_fill(hidden, -std::numeric_limits<float>::infinity());
    out.select(1, h).copy_(
        at::matmul(scores.softmax(-1), p.values[h / share].to(at::kFloat)));
  }
  return out;
}

TEST(PlanDensePrefillTest, RunsForShortAndLongModels) {
  const auto chosen = ChooseDevice({.kind = DeviceKind::kCuda}, ProbeCuda());
  if (!chosen.ok()) GTEST_SKIP() << chosen.status().message();
  const at::Device device(at::kCUDA, 0);
  PlanDensePrefill(9, 3, 64, 100, device);
  PlanDensePrefill(8, 8, 128, 1 << 20, device);
}

class DensePrefillTest : public ::testing::TestWithParam<Case> {};

TEST_P(DensePrefillTest, IsAttentionOverAllThatTheRowsSee) {
  const auto chosen = ChooseDevice({.kind = DeviceKind::kCuda}, ProbeCuda());
  if (!chosen.ok()) GTEST_SKIP() << chosen.status().message();
  const Case c = GetParam();
  const at::Device device(at::kCUDA, 0);
  const Paged p = MakePaged(c, device);
  const at::Tensor q =
      RandomTensor({kBefore + c.rows + kAfter, c.heads, c.d}, at::kBFloat16, 3)
          .to(device);
  at::Tensor out = at::full(q.sizes(), 7, q.options());
  // Large enough that few keys have most of the weight of many rows.
  const auto scale = static_cast<float>(2 / std::sqrt(static_cast<double>(c.d)));
  DensePrefill(q, p.k, p.v, p.pages.const_data_ptr<int32_t>(),
               {kBefore, c.rows, static_cast<Position>(c.begin), {}}, scale, out);
  const at::Tensor want = Reference(c, q.narrow(0, kBefore, c.rows), p, scale);
  const at::Tensor difference = out.narrow(0, kBefore, c.rows).to(at::kFloat) - want;
  // By row, so that one that is wrong is not lost among thousands; NaN is no small error.
  const at::Tensor errors = difference.flatten(1).norm(2, 1) / want.flatten(1).norm(2, 1);
  EXPECT_TRUE(errors.max().item<double>() <= kTolerance)
      << errors.max().item<double>() << " at row " << errors.argmax().item<int64_t>();
  EXPECT_TRUE((out.narrow(0, 0, kBefore) == 7).all().item<bool>());
  EXPECT_TRUE((out.narrow(0, kBefore + c.rows, kAfter) == 7).all().item<bool>());
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, DensePrefillTest,
    ::testing::Values(
        // Nothing before: one part, by flash attention and by cuDNN.
        Case{0, 1, 9, 3, 64}, Case{0, 33, 8, 2, 128}, Case{0, 1024, 9, 3, 64},
        Case{0, 2048, 8, 2, 128},
        // Little before, short chunks: flash attention.
        Case{2047, 2048, 9, 3, 64}, Case{3000, 33, 8, 2, 128}, Case{5000, 1200, 4, 4, 64},
        // Pieces with and without a rest, whole tiles and padded ones.
        Case{2048, 2048, 8, 2, 128}, Case{6144, 2048, 9, 3, 64},
        Case{6144 + 777, 1393, 9, 3, 64}, Case{4096, 700, 4, 4, 128},
        Case{14336, 1024, 6, 6, 64}, Case{8192 + 64, 1300, 24, 1, 128},
        Case{2048 + 1, 640, 16, 2, 64},
        // Several tiles, the last one short or padded.
        Case{0, 4100, 9, 3, 64}, Case{10240 + 33, 6000, 8, 2, 64}));

}  // namespace
}  // namespace quire

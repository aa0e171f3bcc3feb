#include "core/model/cuda_faithful.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "ATen/ops/full.h"
#include "core/runner/probe_cuda.h"
#include "tests/core/attention/faithful_fixture.h"

// The same rule as on the CPU, over the same cache.
namespace quire {
namespace {

using testing::AddDecodes;
using testing::FaithfulCase;
using testing::FaithfulRun;
using testing::RandomCase;

// Of the largest value; sums are made in another order.
double Tolerance(at::ScalarType type) { return type == at::kFloat ? 5e-5 : 8e-3; }

void ExpectSameWork(const AttentionStats& got, const AttentionStats& want,
                    const FaithfulCase& c) {
  AttentionWork work = got.work;
  // The CPU fetches columns once for every task of a long step.
  EXPECT_LE(work.attention_bytes, want.work.attention_bytes);
  const auto longest = *std::max_element(c.steps.begin(), c.steps.end());
  if (longest > kFaithfulTaskQueries / c.share()) {
    work.attention_bytes = want.work.attention_bytes;
  }
  EXPECT_EQ(work, want.work);
  EXPECT_EQ(got.sparse_rows, want.sparse_rows);
  EXPECT_NEAR(got.coverage, want.coverage,
              1e-4 * static_cast<double>(want.sparse_rows) + 1e-9);
}

// All steps of a case on a device, beside those of the CPU.
void ExpectTheCpus(const FaithfulCase& c, uint32_t seed, at::Device device) {
  constexpr int64_t kBefore = FaithfulRun::kOthersBefore;
  FaithfulRun run(c, seed);
  CudaFaithful faithful(1, c.kv_heads);
  AttentionStats stats;
  for (const int64_t rows : c.steps) {
    const int64_t begin = run.seen(), step = kBefore + rows + FaithfulRun::kOthersAfter;
    const at::Tensor want = run.Step(rows);
    at::Tensor q = at::full({step, c.heads, c.head_dim}, NAN, c.type);
    q.narrow(0, kBefore, rows).copy_(run.q.narrow(0, begin, rows));
    at::Tensor out = at::full(q.sizes(), 7, at::TensorOptions(c.type).device(device));
    faithful.Begin({kBefore, rows, static_cast<Position>(begin), run.blocks()}, c.options,
                   device);
    faithful.Attend(0, q.to(device), run.kv().k.to(device), run.kv().v.to(device),
                    run.scale(), out);
    AttentionStats fresh = faithful.stats();
    fresh.coverage -= faithful.grouped_share().item<double>();
    stats += fresh;
    const at::Tensor host = out.to(at::kCPU).to(at::kFloat);
    const double difference =
        (host.narrow(0, kBefore, rows) - want).abs().max().item<double>();
    // Not NaN either.
    ASSERT_TRUE(difference <= Tolerance(c.type) * want.abs().max().item<double>())
        << difference << " at " << begin;
    EXPECT_TRUE((host.narrow(0, 0, kBefore) == 7).all().item<bool>());
    EXPECT_TRUE((host.narrow(0, kBefore + rows, 1) == 7).all().item<bool>());
  }
  ExpectSameWork(stats, run.stats, c);
}

class CudaFaithfulTest : public ::testing::TestWithParam<DeviceKind> {
 protected:
  void SetUp() override {
    if (GetParam() == DeviceKind::kCpu) return;
    const auto chosen = ChooseDevice({.kind = DeviceKind::kCuda}, ProbeCuda());
    if (!chosen.ok()) GTEST_SKIP() << chosen.status().message();
    device_ = at::Device(at::kCUDA, 0);
  }

  at::Device device_ = at::kCPU;
};

TEST_P(CudaFaithfulTest, RandomTextsAreReadAsOnTheCpu) {
  for (uint32_t seed = 0; seed < 30; ++seed) {
    const FaithfulCase c = RandomCase(seed);
    SCOPED_TRACE(::testing::Message() << "seed " << seed << ": " << c);
    ExpectTheCpus(c, seed, device_);
  }
}

// Heads of a whole prompt's second half have unequally many raw tokens.
TEST_P(CudaFaithfulTest, PromptsInPartsChosenAsAWhole) {
  FaithfulCase c;
  c.heads = 6, c.kv_heads = 3;
  c.options = {.min_focal_tokens = 20, .whole_prompt = true};
  c.steps = {33, 300, 7, 150};
  AddDecodes(40, c.steps);
  ExpectTheCpus(c, 5, device_);
}

TEST_P(CudaFaithfulTest, SequencesThatBeginInTheMiddle) {
  FaithfulCase c;
  c.heads = 4, c.kv_heads = 2;
  c.options.min_focal_tokens = 8;
  c.steps = {100, 50, 1, 1};
  FaithfulRun run(c, 3);
  const at::Tensor first = run.Step(100);
  // As after an error: what is in the cache is raw again, on both.
  run.state = {};
  CudaFaithful faithful(1, c.kv_heads);
  int64_t begin = 100;
  for (const int64_t rows : {50, 1, 1}) {
    const at::Tensor want = run.Step(rows);
    const at::Tensor q = run.q.narrow(0, begin, rows).contiguous().to(device_);
    at::Tensor out = at::full(q.sizes(), 7, q.options());
    faithful.Begin({0, rows, static_cast<Position>(begin), run.blocks()}, c.options,
                   device_);
    faithful.Attend(0, q, run.kv().k.to(device_), run.kv().v.to(device_), run.scale(),
                    out);
    EXPECT_LT((out.to(at::kCPU) - want).abs().max().item<double>(), 1e-4);
    begin += rows;
  }
}

INSTANTIATE_TEST_SUITE_P(Devices, CudaFaithfulTest,
                         ::testing::Values(DeviceKind::kCpu, DeviceKind::kCuda),
                         [](const auto& info) {
                           return info.param == DeviceKind::kCpu ? "OnTheCpu"
                                                                 : "OnTheGpu";
                         });

}  // namespace
}  // namespace quire

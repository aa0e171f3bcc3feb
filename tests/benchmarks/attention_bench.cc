// Dense attention of this project against ATen's flash attention on the same CPU, in one
// run by turns: causal prefill of a whole text in one layer of quire-135m (9 query heads,
// 3 key/value heads of 64 channels, bfloat16, random values). One JSON line a length.
//   attention_bench [LENGTH ...]
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "ATen/Parallel.h"
#include "ATen/ops/_scaled_dot_product_flash_attention_for_cpu.h"
#include "ATen/ops/empty.h"
#include "ATen/ops/randn.h"
#include "c10/core/InferenceMode.h"
#include "core/kernels/kernels.h"

namespace quire::kernels {
namespace {

constexpr int64_t kHeads = 9, kKvHeads = 3, kShare = 3, kDim = 64;
constexpr int kRounds = 5;

template <typename F>
double Seconds(F&& f) {
  const auto start = std::chrono::steady_clock::now();
  f();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

void Run(int64_t length) {
  const int64_t pages = (length + 63) / 64;
  std::vector<BlockId> table;
  for (int64_t i = 0; i < pages; ++i) table.push_back(BlockId{static_cast<int32_t>(i)});
  const auto random = [](std::vector<int64_t> shape) {
    return at::randn(shape, at::kFloat).to(at::kBFloat16);
  };
  const PagedKv kv = {random({pages, kKvHeads, 64, kDim}),
                      random({pages, kKvHeads, 64, kDim})};
  const at::Tensor q = random({kKvHeads, length, kShare, kDim});
  at::Tensor out = at::empty({length, kHeads * kDim}, q.options());
  // The same for ATen: [1, H, N, D], every head with its own copy of keys and values.
  const at::Tensor all_q = random({1, kHeads, length, kDim});
  const at::Tensor all_k = random({1, kHeads, length, kDim});
  const at::Tensor all_v = random({1, kHeads, length, kDim});
  std::vector<double> own, aten;
  for (int i = 0; i < kRounds; ++i) {
    own.push_back(Seconds([&] {
      DenseAttention(q, kv, {0, length, 0, table}, 0.125f, out);
    }));
    aten.push_back(Seconds([&] {
      at::_scaled_dot_product_flash_attention_for_cpu(all_q, all_k, all_v, 0.0, true);
    }));
  }
  const double flop = 2.0 * 2 * kHeads * kDim *
                      (static_cast<double>(length) * static_cast<double>(length + 1) / 2);
  std::printf(
      "{\"tokens\": %lld, \"threads\": %d, \"own_seconds\": %.4f, \"aten_seconds\": "
      "%.4f, "
      "\"ratio\": %.2f, \"own_gflops\": %.0f, \"aten_gflops\": %.0f}\n",
      static_cast<long long>(length), at::get_num_threads(), Median(own), Median(aten),
      Median(aten) / Median(own), flop / Median(own) * 1e-9, flop / Median(aten) * 1e-9);
  std::fflush(stdout);
}

int Main(int argc, char** argv) {
  if (!HasFastBFloat16()) {
    std::fprintf(stderr, "this CPU has no AVX512-BF16\n");
    return 2;
  }
  const c10::InferenceMode inference;
  std::vector<int64_t> lengths;
  for (int i = 1; i < argc; ++i) lengths.push_back(std::strtol(argv[i], nullptr, 10));
  if (lengths.empty()) lengths = {512, 2048, 8192, 16384};
  Run(256);  // warm-up
  for (const int64_t length : lengths) Run(length);
  return 0;
}

}  // namespace
}  // namespace quire::kernels

int main(int argc, char** argv) { return quire::kernels::Main(argc, argv); }

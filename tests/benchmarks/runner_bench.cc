// Prefill and decode of one sequence in process, without engine and gRPC: what the
// machine and the kernels give. One JSON line a length; see tests/benchmarks/README.md.
//   runner_bench MODEL_FOLDER TEXT_FILE [LENGTH ...]
#include <sys/resource.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "core/runner/runner.h"
#include "core/tokenizer/tokenizer.h"
#include "tests/benchmarks/device_option.h"

namespace quire {
namespace {

constexpr int kDecodeTokens = 32;
constexpr size_t kChunk = 512;
constexpr size_t kWarmUpTokens = 32;  // with the decoded ones within a block

double Seconds() {
  return std::chrono::duration<double>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

int64_t PeakBytes() {
  rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  return int64_t{usage.ru_maxrss} * 1024;
}

struct Times {
  double prefill_seconds = 0;
  double decode_seconds = 0;
};

TokenId Advance(LoadedRunner& loaded, absl::Span<const TokenId> tokens, size_t begin,
                absl::Span<const BlockId> blocks, bool sample) {
  const auto results =
      loaded.runner->Step({.items = {{.begin = static_cast<Position>(begin),
                                      .tokens = tokens,
                                      .blocks = blocks,
                                      .sample = sample,
                                      // The peers read every token.
                                      .attention = {.mode = AttentionMode::kDense}}}});
  if (!results.ok()) {
    std::fprintf(stderr, "%s\n", results.status().ToString().c_str());
    std::exit(1);
  }
  return sample ? (*results)[0].sampled->token : 0;
}

Times Run(LoadedRunner& loaded, absl::Span<const TokenId> prompt,
          absl::Span<const BlockId> blocks) {
  Times times;
  double start = Seconds();
  TokenId next = 0;
  for (size_t begin = 0; begin < prompt.size(); begin += kChunk) {
    const auto chunk = prompt.subspan(begin, kChunk);
    next = Advance(loaded, chunk, begin, blocks, begin + chunk.size() == prompt.size());
  }
  times.prefill_seconds = Seconds() - start;
  start = Seconds();
  for (int i = 0; i < kDecodeTokens; ++i) {
    const TokenId token = next;
    next = Advance(loaded, {&token, 1}, prompt.size() + i, blocks, true);
  }
  times.decode_seconds = Seconds() - start;
  return times;
}

int Main(int argc, char** argv) {
  if (argc < 3) {
    std::fprintf(stderr, "usage: runner_bench MODEL_FOLDER TEXT_FILE [LENGTH ...]\n");
    return 2;
  }
  const double start = Seconds();
  const ModelFiles files = OpenModelFiles(argv[1]).value();
  LoadedRunner loaded = LoadRunner(files, {.device = BenchmarkDevice()}).value();
  const Tokenizer tokenizer = Tokenizer::Load(files.tokenizer_path).value();
  const double load_seconds = Seconds() - start;
  std::ifstream file(argv[2]);
  const std::string text((std::istreambuf_iterator<char>(file)), {});
  std::vector<TokenId> tokens = tokenizer.Encode(text, false, false).value();
  const size_t once = tokens.size();
  std::vector<size_t> lengths;
  for (int i = 3; i < argc; ++i) lengths.push_back(std::strtoul(argv[i], nullptr, 10));
  std::vector<BlockId> first_blocks = {BlockId{0}};
  Run(loaded, absl::MakeSpan(tokens).subspan(0, kWarmUpTokens), first_blocks);  // untimed
  for (const size_t length : lengths) {
    while (tokens.size() < length) tokens.push_back(tokens[tokens.size() - once]);
    std::vector<BlockId> blocks;
    for (int32_t i = 0;
         i < loaded.kv.BlocksFor(static_cast<int64_t>(length) + kDecodeTokens); ++i) {
      blocks.push_back(BlockId{i});
    }
    const Times t = Run(loaded, absl::MakeSpan(tokens).subspan(0, length), blocks);
    const int64_t kv_bytes =
        files.config.KvBytesPerToken(loaded.compute == ComputeType::kBFloat16 ? 2 : 4) *
        static_cast<int64_t>(length + kDecodeTokens);
    std::printf(
        "{\"peer\": \"quire\", \"prompt_tokens\": %zu, \"decode_tokens\": %d, "
        "\"dtype\": \"%s\", \"prefill_tokens_per_s\": %.1f, \"decode_tokens_per_s\": "
        "%.2f, "
        "\"ready_s\": %.2f, \"peak_rss_bytes\": %lld, \"weight_bytes\": %lld, "
        "\"kv_bytes\": %lld}\n",
        length, kDecodeTokens, std::string(ComputeTypeName(loaded.compute)).c_str(),
        static_cast<double>(length) / t.prefill_seconds, kDecodeTokens / t.decode_seconds,
        load_seconds, static_cast<long long>(PeakBytes()),
        static_cast<long long>(loaded.weight_bytes), static_cast<long long>(kv_bytes));
    std::fflush(stdout);
  }
  return 0;
}

}  // namespace
}  // namespace quire

int main(int argc, char** argv) { return quire::Main(argc, argv); }

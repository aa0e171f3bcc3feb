// Attention kernels on one GPU, in one run: this project's paged decode against the dense
// attentions that ATen has, and cuDNN's causal prefill as the yardstick of what is to
// come. Random inputs; medians of events; inputs that would fit in the L2 go round.
//   cuda_attention [--lengths N,...] [--batches N,...] [--only decode|prefill]
//                  [--seconds S] [--csv FILE]
// Prints the machine and its copy bandwidth in lines that start with #, then CSV:
//   kernel, shape, median_us, rate (TB/s of keys and values in decode, TFLOP/s in
//   prefill), share_of_limit (of what an H200 does, cases.h), ratio_to_peer (above 1:
//   faster than the fastest peer), peer.
// Exit code: 0 measured; 1 no GPU, wrong results or an error of CUDA; 105 and up wrong
// usage.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>

#include "ATen/Context.h"
#include "absl/strings/str_format.h"
#include "c10/core/InferenceMode.h"
#include "c10/cuda/CUDACachingAllocator.h"
#include "c10/cuda/CUDAException.h"
#include "tests/benchmarks/cuda_attention/cases.h"

namespace quire::cuda_attention {
namespace {

struct Options {
  std::vector<int64_t> lengths;  // empty: each kind's own
  std::vector<int64_t> batches = {1, 4, 8};
  std::string only;
  std::string csv;
  double seconds = 0.5;
};

void Describe(Report& report, Timer& timer) {
  cudaDeviceProp device;
  int driver = 0, runtime = 0;
  C10_CUDA_CHECK(cudaGetDeviceProperties(&device, 0));
  C10_CUDA_CHECK(cudaDriverGetVersion(&driver));
  C10_CUDA_CHECK(cudaRuntimeGetVersion(&runtime));
  report.Note(absl::StrFormat("%s, %d multiprocessors, %.1f GB, L2 %.0f MB", device.name,
                              device.multiProcessorCount,
                              1e-9 * static_cast<double>(device.totalGlobalMem),
                              1e-6 * device.l2CacheSize));
  report.Note(absl::StrFormat("CUDA driver %d.%d, runtime %d.%d, cuDNN %d", driver / 1000,
                              driver % 1000 / 10, runtime / 1000, runtime % 1000 / 10,
                              at::Context::versionRuntimeCuDNN()));
  report.Note(
      absl::StrFormat("copy of 1 GiB: %.2f TB/s, read and written; limits: %.1f "
                      "TB/s, %.0f TFLOP/s",
                      timer.CopyTerabytesPerSecond(), kCopyLimit, kMatrixLimit));
}

using Measure = bool (*)(const Shape&, Timer&, Report&);

// A case's memory goes back, so that the next one is not held in pieces of its size.
bool Run(Measure measure, const Shape& shape, Timer& timer, Report& report) {
  const bool agreed = measure(shape, timer, report);
  c10::cuda::CUDACachingAllocator::emptyCache();
  return agreed;
}

bool MeasureAll(const Options& options) {
  Timer timer(options.seconds);  // without a device it throws, and no file is written
  Report report(options.csv);
  bool agreed = true;
  Describe(report, timer);
  const auto lengths = [&](std::vector<int64_t> own) {
    return options.lengths.empty() ? own : options.lengths;
  };
  if (options.only != "prefill") {
    for (const int64_t length : lengths({16384, 32768, 65536, 131072})) {
      for (const int64_t batch : options.batches) {
        agreed &= Run(MeasureDecode, {32, 8, 128, length, batch}, timer, report);
        agreed &= Run(MeasureRefined, {32, 8, 128, length, batch}, timer, report);
      }
    }
    // As LLaMA-2-7B, as Llama-3.1-8B above, as SmolLM2-135M below.
    for (const int64_t length : lengths({16384})) {
      for (const int64_t batch : options.batches) {
        agreed &= Run(MeasureDecode, {32, 32, 128, length, batch}, timer, report);
        agreed &= Run(MeasureRefined, {32, 32, 128, length, batch}, timer, report);
      }
    }
    for (const int64_t length : lengths({16384, 30720})) {
      agreed &= Run(MeasureDecode, {9, 3, 64, length, 1}, timer, report);
      agreed &= Run(MeasureRefined, {9, 3, 64, length, 1}, timer, report);
    }
  }
  if (options.only == "decode") return agreed;
  for (const int64_t length : lengths({8192, 16384, 32768, 65536, 131072})) {
    agreed &= Run(MeasurePrefill, {32, 8, 128, length, 1}, timer, report);
  }
  return agreed;
}

int Main(int argc, char** argv) {
  Options options;
  CLI::App app("Attention kernels on one GPU against ATen's");
  app.add_option("--lengths", options.lengths, "Keys; default: 8K or 16K to 128K")
      ->delimiter(',')
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 20));
  app.add_option("--batches", options.batches, "Sequences of a decode step")
      ->delimiter(',')
      ->check(CLI::Range(1, 64));
  app.add_option("--only", options.only)->check(CLI::IsMember({"decode", "prefill"}));
  app.add_option("--seconds", options.seconds, "Device time of each measurement, roughly")
      ->check(CLI::Range(0.001, 60.0));
  app.add_option("--csv", options.csv, "The table goes to this file, too");
  CLI11_PARSE(app, argc, argv);
  try {
    const c10::InferenceMode inference;
    return MeasureAll(options) ? 0 : 1;
  } catch (const std::exception& error) {
    const std::string what = error.what();  // c10's have a backtrace in further lines
    std::fprintf(stderr, "cuda_attention: %s\n", what.substr(0, what.find('\n')).c_str());
  }
  return 1;
}

}  // namespace
}  // namespace quire::cuda_attention

int main(int argc, char** argv) { return quire::cuda_attention::Main(argc, argv); }

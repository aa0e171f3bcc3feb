// Whole steps of the runner on one GPU, of models of known shapes with random weights
// over a cache of random keys and values: the latency of a token, dense and refined, and
// the time to a prompt's first token.
//   cuda_step [--models NAME,...] [--lengths N,...] [--batches N,...]
//             [--modes dense,refined] [--columns N] [--steps N] [--profile] [--no-graphs]
//             [--prompt N,...] [--prompt-modes dense,refined,faithful]
//             [--prompt-columns N] [--chunk N] [--first-use] [--prepare]
//             [--csv FILE]
//   cuda_step --linears [--models NAME,...] [--batches N,...] [--csv FILE]
// The second form measures nothing but linear layers of so many rows, by the kernel that
// the decoder has for few rows and by cuBLAS.
//
// Prints the machine in a line that starts with #, then CSV (report.h): bytes are those
// that a token of all sequences has to read, the limit is that of 4.1 TB/s, far_columns
// is how many keys beside sinks and window a query head reads in a layer. Which number is
// enough random weights cannot tell: quire-135m reads about 440 at eps .04 whatever the
// length (docs/dga-findings.md), which is what the default aims at; a tile of a prompt's
// rows, which choose together, about 1,500.
// Exit code: 0 measured; 1 no GPU or an error of CUDA; 105 and up wrong usage.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <exception>

#include "absl/strings/str_format.h"
#include "c10/core/DeviceGuard.h"
#include "c10/core/InferenceMode.h"
#include "c10/cuda/CUDACachingAllocator.h"
#include "c10/cuda/CUDAException.h"
#include "core/runner/probe_cuda.h"
#include "tests/benchmarks/cuda_step/bench.h"
#include "tests/benchmarks/cuda_step/linears.h"
#include "tests/benchmarks/cuda_step/shapes.h"

namespace quire::cuda_step {
namespace {

struct Arguments {
  std::vector<std::string> models = ShapeNames();
  std::vector<int64_t> lengths = {16384};
  std::vector<int64_t> batches = {1, 8};
  std::vector<std::string> modes = {"dense", "refined"};
  std::vector<int64_t> prompts;
  std::vector<std::string> prompt_modes = {"dense"};
  bool first_use = false, prepare = false;
  bool linears = false;
  std::string csv;
  Options options;
};

AttentionMode ModeOf(const std::string& name) {
  if (name == "faithful") return AttentionMode::kFaithful;
  return name == "dense" ? AttentionMode::kDense : AttentionMode::kRefined;
}

void Describe(const Arguments& arguments, Report& report) {
  cudaDeviceProp device;
  int driver = 0, runtime = 0;
  C10_CUDA_CHECK(cudaGetDeviceProperties(&device, 0));
  C10_CUDA_CHECK(cudaDriverGetVersion(&driver));
  C10_CUDA_CHECK(cudaRuntimeGetVersion(&runtime));
  report.Note(absl::StrFormat(
      "%s, CUDA driver %d.%d, runtime %d.%d; limit: %.1f TB/s; random weights, keys and "
      "values; %s",
      device.name, driver / 1000, driver % 1000 / 10, runtime / 1000, runtime % 1000 / 10,
      kCopyLimit, arguments.options.graphs ? "CUDA graphs" : "no CUDA graphs"));
}

constexpr int64_t kShortPrompt = 512;  // for which cuDNN makes no plan

// The modes of one measurement: the dense one is the others' yardstick.
template <typename Measure>
void MeasureModes(const std::vector<std::string>& modes, Report& report,
                  const Measure& measure) {
  double dense_ms = 0;
  for (const std::string& mode : modes) {
    Row row = measure(ModeOf(mode));
    if (mode == "dense") dense_ms = row.median_ms;
    row.ratio_to_dense = dense_ms / row.median_ms;
    report.Add(row);
  }
}

// Tokens of all sequences of a measurement, with room for what is measured.
int64_t Tokens(int64_t batch, int64_t length) { return batch * (length + 256); }

void MeasureModel(const std::string& model, const Arguments& a, Report& report) {
  const at::Device device(at::kCUDA, 0);
  const int64_t room = Bench::Room(model, device);
  int64_t most = 0;
  const auto fits = [&](int64_t batch, int64_t length) {
    return Tokens(batch, length) <= room;
  };
  const auto consider = [&](int64_t batch, int64_t length) {
    if (fits(batch, length)) {
      most = std::max(most, Tokens(batch, length));
    } else {
      report.Note(absl::StrFormat("%s: no memory for %d x %d tokens, but for %d", model,
                                  batch, length, room));
    }
  };
  for (const int64_t length : a.lengths) {
    for (const int64_t batch : a.batches) consider(batch, length);
  }
  for (const int64_t length : a.prompts) consider(1, length);
  if (most == 0) return;
  Bench bench(model, most, a.options, device);
  if (a.prepare) {
    report.Note(absl::StrFormat("%s: prepared in %.0f ms", model, bench.Prepare()));
  }
  for (const int64_t length : a.lengths) {
    for (const int64_t batch : a.batches) {
      if (!fits(batch, length)) continue;
      MeasureModes(a.modes, report, [&](AttentionMode mode) {
        return bench.MeasureToken(mode, batch, length);
      });
    }
  }
  for (const int64_t length : a.prompts) {
    if (!fits(1, length)) continue;
    MeasureModes(a.prompt_modes, report, [&](AttentionMode mode) {
      // Ahead, libraries are loaded, and by a whole chunk they make their plans.
      const int64_t ahead = a.first_use ? kShortPrompt : a.options.chunk;
      bench.MeasureFirstToken(mode, std::min(length, ahead));
      if (a.first_use) {
        Row first = bench.MeasureFirstToken(mode, length);
        first.what = "first_use";
        report.Add(first);
      }
      return bench.MeasureFirstToken(mode, length);
    });
  }
}

void MeasureAll(const Arguments& arguments) {
  const c10::InferenceMode inference;
  const c10::DeviceGuard guard(at::Device(at::kCUDA, 0));
  Report report(arguments.csv);
  Describe(arguments, report);
  if (arguments.linears) {
    cuda_attention::Timer timer(0.05);
    for (const std::string& model : arguments.models) {
      for (const int64_t rows : arguments.batches) {
        MeasureLinears(model, rows, at::Device(at::kCUDA, 0), timer, report);
      }
    }
    return;
  }
  for (const std::string& model : arguments.models) {
    MeasureModel(model, arguments, report);
    c10::cuda::CUDACachingAllocator::emptyCache();
  }
}

int Main(int argc, char** argv) {
  Arguments a;
  CLI::App app("Whole steps of models of known shapes on one GPU");
  app.add_option("--models", a.models)
      ->delimiter(',')
      ->check(CLI::IsMember(ShapeNames()));
  app.add_option("--lengths", a.lengths, "Tokens in the cache of each sequence")
      ->delimiter(',')
      ->check(CLI::Range(int64_t{512}, int64_t{1} << 19));
  app.add_option("--batches", a.batches, "Sequences")
      ->delimiter(',')
      ->check(CLI::Range(1, 64));
  app.add_option("--modes", a.modes)
      ->delimiter(',')
      ->check(CLI::IsMember({"dense", "refined"}));
  app.add_option("--columns", a.options.columns, "Far keys of a head to choose eps for")
      ->check(CLI::Range(1.0, 1e6));
  app.add_option("--prompt-columns", a.options.prompt_columns, "The same of prompts")
      ->check(CLI::Range(1.0, 1e6));
  app.add_option("--steps", a.options.steps)->check(CLI::Range(1, 100));
  app.add_flag("--sampled", a.options.sampled, "Draw tokens: by .8, top-k 50, top-p .95");
  app.add_flag("--profile", a.options.profile, "The host's time by part");
  app.add_flag("!--no-graphs", a.options.graphs, "Launch by launch");
  app.add_option("--prompt", a.prompts, "Tokens of prompts to be read")
      ->delimiter(',')
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 19));
  app.add_option("--prompt-modes", a.prompt_modes)
      ->delimiter(',')
      ->check(CLI::IsMember({"dense", "refined", "faithful"}));
  app.add_option("--chunk", a.options.chunk, "Tokens of a prompt in a step")
      ->check(CLI::Range(64, 1 << 17));
  app.add_flag("--first-use", a.first_use,
               "Each prompt once more before, when shapes are new to the libraries");
  app.add_flag("--prepare", a.prepare, "Plans are made ahead, as in a server");
  app.add_flag("--linears", a.linears, "Linear layers alone");
  app.add_option("--csv", a.csv, "The table goes to this file, too");
  CLI11_PARSE(app, argc, argv);
  if (const auto chosen = ChooseDevice({.kind = DeviceKind::kCuda}, ProbeCuda());
      !chosen.ok()) {
    std::fprintf(stderr, "cuda_step: %s\n",
                 std::string(chosen.status().message()).c_str());
    return 1;
  }
  try {
    MeasureAll(a);
    return 0;
  } catch (const std::exception& error) {
    const std::string what = error.what();  // c10's have a backtrace in further lines
    std::fprintf(stderr, "cuda_step: %s\n", what.substr(0, what.find('\n')).c_str());
  }
  return 1;
}

}  // namespace
}  // namespace quire::cuda_step

int main(int argc, char** argv) { return quire::cuda_step::Main(argc, argv); }

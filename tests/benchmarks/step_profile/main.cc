// Times single steps of the real runner over a grid of mixed batches: decodes and one
// prompt chunk, at several depths. What the cost model is fitted from, and what it is
// judged by.
//   step_profile MODEL_FOLDER [REPEATS]
// Prints one JSON line a step: what it held and its median time.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "core/runner/runner.h"
#include "tests/benchmarks/device_option.h"

namespace quire {
namespace {

double Milliseconds() {
  return std::chrono::duration<double, std::milli>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

struct Mix {
  int32_t decodes = 0;
  int32_t decode_depth = 0;  // tokens each of them has in the cache
  int32_t chunk = 0;         // prompt tokens of one more sequence
  int32_t chunk_depth = 0;   // tokens it has in the cache
};

class Profile {
 public:
  Profile(const std::string& folder, int repeats)
      : files_(OpenModelFiles(folder).value()),
        loaded_(LoadRunner(files_, {.device = BenchmarkDevice()}).value()),
        repeats_(repeats) {}

  void Run(AttentionMode mode, const Mix& mix) {
    if (!Fits(mix)) return;
    Fill(mix, mode);
    std::vector<double> times;
    for (int i = 0; i < repeats_; ++i) times.push_back(Time(mix, mode));
    std::sort(times.begin(), times.end());
    std::printf(
        "{\"mode\": \"%s\", \"decodes\": %d, \"decode_depth\": %d, \"chunk\": %d, "
        "\"chunk_depth\": %d, \"milliseconds\": %.3f}\n",
        std::string(AttentionModeName(mode)).c_str(), mix.decodes, mix.decode_depth,
        mix.chunk, mix.chunk_depth, times[times.size() / 2]);
    std::fflush(stdout);
  }

 private:
  struct Slot {
    std::vector<BlockId> blocks;
    int32_t filled = 0;  // tokens in the cache
  };

  bool Fits(const Mix& mix) const {
    const int64_t blocks =
        int64_t{mix.decodes} * loaded_.kv.BlocksFor(mix.decode_depth + 1) +
        loaded_.kv.BlocksFor(mix.chunk_depth + mix.chunk);
    return blocks <= loaded_.kv.num_blocks &&
           mix.chunk_depth + mix.chunk <= files_.config.max_positions;
  }

  StepItem Item(const Slot& slot, uint64_t id, int32_t begin, int32_t count,
                AttentionMode mode, bool sample) {
    while (static_cast<int32_t>(tokens_.size()) < begin + count) {
      tokens_.push_back(
          static_cast<TokenId>((tokens_.size() * 7919 + 13) % files_.config.vocab_size));
    }
    return {.id = RequestId{id},
            .begin = begin,
            .tokens = absl::MakeSpan(tokens_).subspan(begin, count),
            .blocks = slot.blocks,
            .sample = sample,
            .attention = {.mode = mode}};
  }

  void Step(std::vector<StepItem> items) {
    const auto results = loaded_.runner->Step({.items = std::move(items)});
    if (results.ok()) return;
    std::fprintf(stderr, "%s\n", results.status().ToString().c_str());
    std::exit(1);
  }

  // Computes what stands before the timed rows. Other slots' caches are kept if they lie
  // where this mix wants them.
  void Fill(const Mix& mix, AttentionMode mode) {
    slots_.assign(mix.decodes + 1, {});
    int32_t next = 0;
    for (int32_t i = 0; i <= mix.decodes; ++i) {
      const bool last = i == mix.decodes;
      const int32_t depth = last ? mix.chunk_depth : mix.decode_depth;
      const int32_t all = depth + (last ? mix.chunk : 1);
      for (int32_t b = 0; b < loaded_.kv.BlocksFor(all); ++b) {
        slots_[i].blocks.push_back(BlockId{next++});
      }
      for (int32_t begin = 0; begin < depth; begin += 512) {
        const int32_t count = std::min(512, depth - begin);
        Step({Item(slots_[i], i + 1, begin, count, mode, false)});
      }
    }
  }

  double Time(const Mix& mix, AttentionMode mode) {
    std::vector<StepItem> items;
    for (int32_t i = 0; i < mix.decodes; ++i) {
      items.push_back(Item(slots_[i], i + 1, mix.decode_depth, 1, mode, true));
    }
    if (mix.chunk > 0) {
      items.push_back(Item(slots_[mix.decodes], mix.decodes + 1, mix.chunk_depth,
                           mix.chunk, mode, false));
    }
    const double start = Milliseconds();
    Step(std::move(items));
    return Milliseconds() - start;
  }

  const ModelFiles files_;
  LoadedRunner loaded_;
  const int repeats_;
  std::vector<TokenId> tokens_;
  std::vector<Slot> slots_;
};

int Main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: step_profile MODEL_FOLDER [REPEATS]\n");
    return 2;
  }
  Profile profile(argv[1], argc > 2 ? std::atoi(argv[2]) : 9);
  const AttentionMode mode = AttentionMode::kAuto;
  for (const int32_t depth : {64, 1024, 4000, 12000}) {
    for (const int32_t decodes : {1, 2, 4, 8, 16, 32, 64}) {
      if (int64_t{decodes} * depth <= 64 * 1024) profile.Run(mode, {decodes, depth});
    }
  }
  for (const int32_t depth : {0, 1024, 4000, 8000, 14000}) {
    for (const int32_t chunk : {8, 16, 32, 64, 128, 512}) {
      profile.Run(mode, {0, 0, chunk, depth});
    }
  }
  for (const int32_t depth : {0, 4000, 14000}) {
    for (const int32_t chunk : {8, 32, 128}) profile.Run(mode, {4, 1024, chunk, depth});
  }
  return 0;
}

}  // namespace
}  // namespace quire

int main(int argc, char** argv) { return quire::Main(argc, argv); }

#include "core/engine/measure_step_cost.h"

#include <array>
#include <chrono>
#include <iterator>
#include <limits>
#include <vector>

#include "core/base/status_macros.h"

namespace quire {
namespace {

using SteadyClock = std::chrono::steady_clock;

constexpr std::chrono::seconds kEnough{1};
constexpr int kEpochs = 400;
constexpr double kRate = 0.2;

// Steps of one item at `begin`, or of several sequences' first tokens.
struct Probe {
  int32_t begin = 0;
  int32_t rows = 1;
  int32_t sequences = 1;
};

// What stands before a probe's rows was computed by the ones above it. Each is run
// kRepeats times and its shortest time counts: other work on the machine only adds.
constexpr Probe kProbes[] = {{0, 1},    {0, 8},    {0, 1, 8}, {0, 64},
                             {64, 64},  {128, 64}, {192, 64}, {256, 64},
                             {320, 64}, {384, 64}, {448, 1},  {448, 64}};
constexpr size_t kNumProbes = std::size(kProbes);
constexpr int kRepeats = 3;

class Prober {
 public:
  Prober(ModelRunner& runner, const KvGeometry& kv, const ModelLimits& model)
      : runner_(runner), kv_(kv), model_(model) {
    for (int32_t i = 0; i < 512; ++i) tokens_.push_back(i * 7919 % model.vocab_size);
  }

  absl::StatusOr<StepCost> Run() {
    const auto start = SteadyClock::now();
    for (size_t i = 0; i < kNumProbes * kRepeats; ++i) {
      // One of each is enough if they are slow; then all of them cannot be.
      if (SteadyClock::now() - start > kEnough) break;
      const size_t probe = i % kNumProbes;
      if (Fits(kProbes[probe])) QUIRE_RETURN_IF_ERROR(Time(kProbes[probe], probe));
    }
    QUIRE_RETURN_IF_ERROR(runner_.Step({.released = released_}).status());
    return Fit();
  }

 private:
  bool Fits(const Probe& probe) const {
    return probe.begin + probe.rows <= model_.max_positions &&
           probe.sequences * kv_.BlocksFor(probe.begin + probe.rows) <= kv_.num_blocks;
  }

  absl::Status Time(const Probe& probe, size_t place) {
    StepInput input;
    StepFeatures& features = features_[place];
    features = {};
    std::vector<std::vector<BlockId>> blocks(static_cast<size_t>(probe.sequences));
    int32_t next = 0;
    for (auto& table : blocks) {
      for (int32_t i = 0; i < kv_.BlocksFor(probe.begin + probe.rows); ++i) {
        table.push_back(BlockId{next++});
      }
      // Ids that no request ever has.
      const RequestId id{std::numeric_limits<uint64_t>::max() - input.items.size()};
      input.items.push_back(
          {.id = id,
           .begin = probe.begin,
           .tokens = absl::MakeSpan(tokens_).subspan(static_cast<size_t>(probe.begin),
                                                     static_cast<size_t>(probe.rows)),
           .blocks = table,
           .sample = true,
           .attention = {.mode = AttentionMode::kDense}});
      released_.push_back(id);
      features += FeaturesOf({.begin = probe.begin, .rows = probe.rows, .samples = true});
    }
    const auto began = SteadyClock::now();
    QUIRE_ASSIGN_OR_RETURN(const auto results, runner_.Step(input));
    const std::chrono::nanoseconds took = SteadyClock::now() - began;
    for (const StepResult& result : results) QUIRE_RETURN_IF_ERROR(result.status);
    int64_t& shortest = nanoseconds_[place];
    if (shortest == 0 || took.count() < shortest) shortest = took.count();
    return absl::OkStatus();
  }

  StepCost Fit() const {
    const StepCost prior = DefaultStepCost();
    StepCostFit fit(prior, kRate);
    for (int epoch = 0; epoch < kEpochs; ++epoch) {
      for (size_t i = 0; i < kNumProbes; ++i) fit.Add(features_[i], nanoseconds_[i]);
    }
    StepCost cost = fit.cost();
    const auto scaled = [&](int64_t price) {
      return static_cast<int64_t>(static_cast<double>(price) *
                                  static_cast<double>(cost.row_ps) /
                                  static_cast<double>(prior.row_ps));
    };
    cost.sparse_row_ps = scaled(prior.sparse_row_ps);
    cost.scanned_column_ps = scaled(prior.scanned_column_ps);
    return cost;
  }

  ModelRunner& runner_;
  const KvGeometry& kv_;
  const ModelLimits& model_;
  std::vector<TokenId> tokens_;
  std::vector<RequestId> released_;
  std::array<StepFeatures, kNumProbes> features_;
  std::array<int64_t, kNumProbes> nanoseconds_{};  // 0: not run
};

}  // namespace

absl::StatusOr<StepCost> MeasureStepCost(ModelRunner& runner, const KvGeometry& kv,
                                         const ModelLimits& model) {
  return Prober(runner, kv, model).Run();
}

}  // namespace quire

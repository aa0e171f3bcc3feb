#include "tests/benchmarks/cuda_step/bench.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <random>
#include <stdexcept>
#include <utility>

#include "absl/strings/ascii.h"
#include "c10/cuda/CUDACachingAllocator.h"
#include "c10/cuda/CUDAException.h"
#include "c10/cuda/CUDAStream.h"
#include "core/kernels/cuda/cuda_kernels.h"
#include "core/runner/cuda_readout.h"
#include "tests/benchmarks/cuda_step/shapes.h"
#include "tests/support/quantile.h"

namespace quire::cuda_step {
namespace {

// Steps before a median: the first of a shape is launched one by one, the second
// captured.
constexpr int kWarmUp = 4;
// Tokens of a sequence beyond its length: one is new in each step that is measured.
constexpr int64_t kMargin = 128;
// Rows of a prompt's end that its eps is chosen by.
constexpr int64_t kAimedRows = 2048;
// Beside weights and cache: activations, workspaces, and what is gathered of a prompt.
constexpr double kReservedBytes = 10e9;

double Microseconds() {
  return std::chrono::duration<double, std::micro>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

std::string NameOf(AttentionMode mode) {
  const std::string_view name = AttentionModeName(mode);
  return absl::AsciiStrToLower({name.data(), name.size()});
}

// The eps at which columns(eps) come to about `wanted`: they go with 1 / eps^2 until keys
// are certain, and on some random scores from all to few at once.
template <typename Columns>
float AimEps(double wanted, const Columns& columns) {
  float eps = 0.04f, low = 0, high = 1;
  for (int i = 0; i < 12; ++i) {
    const double come = columns(eps);
    if (std::abs(come / wanted - 1) < 0.01) break;
    (come > wanted ? low : high) = eps;
    const auto next = eps * static_cast<float>(std::sqrt(std::max(come, 1.0) / wanted));
    eps = next > low && next < high ? next : (low + high) / 2;
  }
  return eps;
}

AttentionStats StatsOf(const std::vector<StepResult>& results) {
  AttentionStats stats;
  for (const StepResult& result : results) stats += result.attention;
  return stats;
}

// Of a token of every sequence: all matrices but an embedding of which a row is read.
double WeightBytesRead(const CudaDecoder& decoder) {
  const ModelConfig& c = decoder.config();
  const double embedding = 2.0 * c.vocab_size * c.hidden_size;
  return static_cast<double>(decoder.weight_bytes()) - (c.tie_embeddings ? 0 : embedding);
}

}  // namespace

// Tokens and blocks that the items' spans are of.
struct Bench::Step {
  std::vector<std::vector<TokenId>> tokens;  // [batch], one each
  std::vector<std::vector<BlockId>> blocks;  // [batch]
  StepInput input;
  void Advance() {
    for (StepItem& item : input.items) ++item.begin;
  }
};

int64_t Bench::Room(const std::string& model, at::Device device) {
  const ModelConfig c = ShapeOf(model);
  c10::cuda::CUDACachingAllocator::emptyCache();
  size_t free = 0, total = 0;
  C10_CUDA_CHECK(cudaSetDevice(device.index()));
  C10_CUDA_CHECK(cudaMemGetInfo(&free, &total));
  const double layer =
      4.0 * c.hidden_size * c.hidden_size + 3.0 * c.hidden_size * c.intermediate_size;
  const double weights = 2 * (c.num_layers * layer + 2.0 * c.vocab_size * c.hidden_size);
  const double left = static_cast<double>(free) - weights - kReservedBytes;
  return static_cast<int64_t>(left / (1 + CudaKvCache::IndexShare(c)) /
                              static_cast<double>(c.KvBytesPerToken(2)));
}

Bench::Bench(const std::string& model, int64_t tokens, const Options& options,
             at::Device device)
    : model_(model), config_(ShapeOf(model)), options_(options) {
  geometry_.tokens_per_block = kernels::cuda::kPageTokens;
  geometry_.num_blocks = static_cast<int32_t>(tokens / geometry_.tokens_per_block + 1);
  auto decoder =
      CudaDecoder::Make(config_, RandomWeights(config_, device), device).value();
  decoder->set_use_graphs(options.graphs);
  auto cache = std::make_unique<CudaKvCache>(config_, geometry_, device);
  FillRandomly(config_, *cache);
  for (int32_t i = 0; i < geometry_.num_blocks; ++i) blocks_.push_back(BlockId{i});
  std::shuffle(blocks_.begin(), blocks_.end(), std::mt19937(7));
  decoder_ = decoder.get();
  cache_ = cache.get();
  runner_ =
      std::make_unique<CudaModelRunner>(std::move(decoder), std::move(cache), geometry_);
}

double Bench::Prepare() {
  const double start = Microseconds();
  runner_->Prepare();
  return 1e-3 * (Microseconds() - start);
}

Bench::Step Bench::MakeStep(const AttentionOptions& attention, int64_t batch,
                            int64_t length) const {
  Step step;
  const int64_t pages = geometry_.BlocksFor(length + kMargin);
  for (int64_t i = 0; i < batch; ++i) {
    step.tokens.push_back({static_cast<TokenId>(17 + i)});
    const auto first = blocks_.begin() + i * pages;
    step.blocks.emplace_back(first, first + pages);
  }
  for (int64_t i = 0; i < batch; ++i) {
    step.input.items.push_back({.id = RequestId{static_cast<uint64_t>(i)},
                                .begin = static_cast<Position>(length),
                                .tokens = step.tokens[i],
                                .blocks = step.blocks[i],
                                .sample = true,
                                .attention = attention});
    if (!options_.sampled) continue;
    step.input.items.back().sampling = {.temperature = 0.8f,
                                        .top_k = 50,
                                        .top_p = 0.95f,
                                        .seed = static_cast<uint64_t>(i)};
  }
  return step;
}

std::vector<StepResult> Bench::Run(const Step& step) const {
  absl::StatusOr<std::vector<StepResult>> results = runner_->Step(step.input);
  if (!results.ok()) throw std::runtime_error(results.status().ToString());
  for (const StepResult& result : *results) {
    if (!result.status.ok()) throw std::runtime_error(result.status.ToString());
  }
  return *std::move(results);
}

double Bench::FarColumns(const AttentionStats& stats) {
  return stats.sparse_rows == 0 ? 0
                                : static_cast<double>(stats.work.expanded_columns) /
                                      static_cast<double>(stats.sparse_rows);
}

Row Bench::MeasureToken(AttentionMode mode, int64_t batch, int64_t length) {
  const bool refined = mode == AttentionMode::kRefined;
  AttentionOptions attention = {.mode = mode};
  if (refined) {
    attention.eps = AimEps(options_.columns, [&](float eps) {
      AttentionOptions tried = attention;
      tried.eps = eps;
      return FarColumns(StatsOf(Run(MakeStep(tried, batch, length))));
    });
  }
  Step step = MakeStep(attention, batch, length);
  for (int i = 0; i < kWarmUp; ++i) Run(step);
  std::vector<double> times;
  std::vector<StepResult> results;
  for (int i = 0; i < std::min<int>(options_.steps, kMargin - 1); ++i) {
    const double start = Microseconds();
    results = Run(step);
    times.push_back(Microseconds() - start);
    step.Advance();
  }
  Row row = {.model = model_,
             .what = options_.sampled ? "sampled_token" : "token",
             .mode = NameOf(mode),
             .batch = batch,
             .length = length,
             .median_ms = 1e-3 * Quantile(times, .5),
             .weight_bytes = WeightBytesRead(*decoder_)};
  row.tokens_per_second = 1e3 * static_cast<double>(batch) / row.median_ms;
  const AttentionStats stats = StatsOf(results);
  row.kv_bytes =
      static_cast<double>(stats.work.attention_bytes + stats.work.selection_bytes);
  if (refined) {
    row.far_columns = FarColumns(stats);
    row.eps = attention.eps;
  }
  if (options_.profile) Profile(step, refined, row);
  return row;
}

// The step once more by the runner's parts.
void Bench::Profile(const Step& step, bool refined, Row& row) const {
  std::vector<TokenId> tokens;
  std::vector<CudaSequence> sequences;
  for (const StepItem& item : step.input.items) {
    CudaSequence s;
    s.rows = {static_cast<int64_t>(tokens.size()), 1, item.begin, item.blocks};
    s.reading = refined ? CudaSequence::Reading::kRefinedDecode
                        : CudaSequence::Reading::kDenseDecode;
    s.eps = item.attention.eps;
    sequences.push_back(s);
    tokens.push_back(item.tokens[0]);
  }
  const c10::cuda::CUDAStream stream = c10::cuda::getCurrentCUDAStream();
  const CudaStep::Shape shape = CudaStep::Shape::Of(sequences);
  const CudaStep::Memory memory =
      CudaStep::Memory::Make(CudaStep::Entries(shape), decoder_->device());
  std::vector<double> tables, launches, waits;
  for (int i = 0; i < options_.steps; ++i) {
    const double start = Microseconds();
    const CudaStep made(shape, tokens, sequences, memory);
    tables.push_back(Microseconds() - start);
    stream.synchronize();
    const double begin = Microseconds();
    const CudaDecoder::Result result = decoder_->Forward(tokens, sequences, {}, *cache_);
    CudaReadout readout(*decoder_, result);
    for (size_t row = 0; row < tokens.size(); ++row) {
      readout.WantSample(static_cast<int64_t>(row), step.input.items[row]);
    }
    readout.Launch();
    const double launched = Microseconds();
    stream.synchronize();
    launches.push_back(launched - begin - tables.back());
    waits.push_back(Microseconds() - launched);
  }
  row.tables_us = Quantile(tables, .5);
  row.launch_us = Quantile(launches, .5);
  row.wait_us = Quantile(waits, .5);
}

AttentionStats Bench::PromptChunk(const AttentionOptions& attention,
                                  const std::vector<TokenId>& tokens, int64_t begin,
                                  int64_t count) const {
  const auto length = static_cast<int64_t>(tokens.size());
  Step step = MakeStep(attention, 1, length);
  StepItem& item = step.input.items[0];
  item.begin = static_cast<Position>(begin);
  item.tokens = absl::MakeConstSpan(tokens).subspan(begin, count);
  item.sample = item.last_chunk = begin + count == length;
  return StatsOf(Run(step));
}

Row Bench::MeasureFirstToken(AttentionMode mode, int64_t length) {
  std::vector<TokenId> tokens(static_cast<size_t>(length));
  std::mt19937 random(11);
  for (TokenId& token : tokens) {
    token = static_cast<TokenId>(random() % static_cast<uint32_t>(config_.vocab_size));
  }
  AttentionOptions attention = {.mode = mode};
  const bool refined = mode == AttentionMode::kRefined;
  if (refined) {
    attention.eps = AimEps(options_.prompt_columns, [&](float eps) {
      AttentionOptions tried = attention;
      tried.eps = eps;
      const int64_t rows = std::min(length, kAimedRows);
      return FarColumns(PromptChunk(tried, tokens, length - rows, rows));
    });
  }
  AttentionStats stats;
  const double start = Microseconds();
  for (int64_t begin = 0; begin < length; begin += options_.chunk) {
    stats +=
        PromptChunk(attention, tokens, begin, std::min(options_.chunk, length - begin));
  }
  const double ms = 1e-3 * (Microseconds() - start);
  return {.model = model_,
          .what = "first_token",
          .mode = NameOf(mode),
          .batch = 1,
          .length = length,
          .median_ms = ms,
          .tokens_per_second = 1e3 * static_cast<double>(length) / ms,
          .far_columns = FarColumns(stats),
          .eps = refined ? attention.eps : 0,
          .attention_ms = 1e3 * stats.seconds};
}

}  // namespace quire::cuda_step

#include "core/model/cuda_decoder.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <utility>

#include "ATen/ops/empty.h"
#include "ATen/ops/empty_like.h"
#include "ATen/ops/zeros.h"
#include "absl/strings/str_cat.h"
#include "c10/cuda/CUDAStream.h"
#include "core/base/check.h"
#include "core/base/status_macros.h"
#include "core/kernels/cuda/refined.h"
#include "core/kernels/cuda/refined_prefill.h"
#include "core/kernels/cuda/sample.h"
#include "core/kernels/refined.h"
#include "core/model/cuda_audit.h"
#include "core/model/cuda_check.h"
#include "core/model/cuda_faithful.h"
#include "core/model/cuda_prefill.h"
#include "core/model/cuda_row_summary.h"

namespace quire {
namespace {

namespace cuda = kernels::cuda;
using cuda::Bf16;

// Rows that a step that runs as a graph is padded to.
constexpr int64_t kGraphRows[] = {1, 2, 4, 8, 16, 24, 32, 48, CudaDecoder::kMaxGraphRows};
constexpr int64_t kMinGraphPages = 1024;  // that lists of such steps have places for

Bf16* Data(const at::Tensor& t) { return static_cast<Bf16*>(t.data_ptr()); }
const float* Floats(const at::Tensor& t) {
  return t.defined() ? t.const_data_ptr<float>() : nullptr;
}
cudaStream_t Stream() { return c10::cuda::getCurrentCUDAStream(); }
float Scale(const ModelConfig& c) {
  return 1.0f / std::sqrt(static_cast<float>(c.head_dim));
}

// Pages that the rows begin lose the index of what was in their blocks before.
void ForgetIndices(absl::Span<const CudaSequence> sequences, CudaKvCache& cache) {
  for (const CudaSequence& s : sequences) {
    const int64_t first = (s.rows.begin + cuda::kPageTokens - 1) / cuda::kPageTokens;
    for (int64_t page = first; page * cuda::kPageTokens < s.rows.begin + s.rows.rows;
         ++page) {
      cache.ForgetIndex(s.rows.blocks[page]);
    }
  }
}

// Far pages of decoding rows that have no index yet; from now on they count as indexed.
std::vector<int32_t> TakeUnindexed(absl::Span<const CudaSequence> sequences,
                                   CudaKvCache& cache) {
  std::vector<int32_t> blocks;
  for (const CudaSequence& s : sequences) {
    if (s.reading != CudaSequence::Reading::kRefinedDecode) continue;
    const std::vector<int32_t> missing =
        cache.TakeUnindexed(s.rows.blocks.subspan(1, s.far_pages()));
    blocks.insert(blocks.end(), missing.begin(), missing.end());
  }
  return blocks;
}

// On the device, by a copy that does not wait.
at::Tensor Send(const std::vector<int32_t>& values, at::Device device) {
  const auto count = static_cast<int64_t>(values.size());
  const CudaStep::Memory memory = CudaStep::Memory::Make(count, device);
  std::copy(values.begin(), values.end(), memory.host.data_ptr<int32_t>());
  memory.device.copy_(memory.host, /*non_blocking=*/true);
  return memory.device;
}

absl::Status CheckShape(const ModelConfig& c) {
  if (!cuda::HasDecodeKernel(c.head_dim, c.num_heads / c.num_kv_heads)) {
    return absl::UnimplementedError(absl::StrCat(
        "device is CUDA; its kernels take heads of 64 or 128 channels, which have ",
        c.head_dim, ", and at most ", cuda::kMaxDecodeShare,
        " query heads a key/value head, of which there are ",
        c.num_heads / c.num_kv_heads, "; use device cpu"));
  }
  if (c.hidden_size % 8 != 0 || c.intermediate_size % 8 != 0 ||
      c.hidden_size > cuda::kMaxHidden) {
    return absl::UnimplementedError(absl::StrCat(
        "device is CUDA; its kernels take hidden and intermediate sizes that 8 divides, "
        "and hidden sizes up to ",
        cuda::kMaxHidden, "; these are ", c.hidden_size, " and ", c.intermediate_size,
        "; use device cpu"));
  }
  if (c.vocab_size > cuda::kMaxSampledVocab) {
    return absl::UnimplementedError(absl::StrCat(
        "device is CUDA; its kernels choose among at most ", cuda::kMaxSampledVocab,
        " tokens, of which there are ", c.vocab_size, "; use device cpu"));
  }
  return absl::OkStatus();
}

}  // namespace

// What the layers of a step share.
struct CudaDecoder::Rows {
  const CudaStep& step;
  absl::Span<const CudaSequence> sequences;
  absl::Span<Probe> probes;
  at::Tensor cos, sin;  // [T, D / 2]
  at::Tensor residual;  // [T, E] float32, without `update`
  at::Tensor update;    // [T, E] bfloat16, or undefined
  at::Tensor counts;    // of Result
  CudaTimer& timer;
  at::Tensor audit_errors = {}, prompt_counts = {};  // of Result
};

CudaDecoder::CudaDecoder(const ModelConfig& config, CudaWeights weights,
                         at::Device device)
    : config_(config), device_(device), weights_(std::move(weights)) {
  ThrowIfError(cudaDeviceGetAttribute(&multiprocessors_, cudaDevAttrMultiProcessorCount,
                                      device.index()));
  int capability = 0;
  ThrowIfError(cudaDeviceGetAttribute(&capability, cudaDevAttrComputeCapabilityMajor,
                                      device.index()));
  refines_prompts_ =
      capability == 9 && cuda::HasRefinedPrefillKernel(
                             config.head_dim, config.num_heads / config.num_kv_heads);
  const std::vector<double> frequencies =
      RopeInverseFrequencies(config.rope, config.head_dim, config.max_positions);
  at::Tensor host = at::empty({static_cast<int64_t>(frequencies.size())}, at::kFloat);
  for (size_t i = 0; i < frequencies.size(); ++i) {
    host.data_ptr<float>()[i] = static_cast<float>(frequencies[i]);
  }
  inverse_frequencies_ = host.to(device);
  static_assert(kernels::kDrawPadding >= cuda::kRefinedDrawPadding);
  at::Tensor draws = at::empty({kernels::kDraws + kernels::kDrawPadding}, at::kShort);
  std::copy_n(kernels::DrawTable(), draws.numel(), draws.data_ptr<int16_t>());
  draws_ = draws.to(device);
  GrowWorkspace(64, 1024);
}

// Zeroed when made: the kernels leave their counters at zero. Without memory for more all
// stays as it was.
void CudaDecoder::GrowWorkspace(int32_t sequences, int64_t far_pages) {
  if (sequences <= workspace_sequences_ && far_pages <= workspace_far_pages_) return;
  graphs_.Clear();
  if (sequences <= workspace_sequences_) {
    sequences = workspace_sequences_;
  } else {
    sequences = std::max(sequences, 2 * workspace_sequences_);
  }
  if (far_pages <= workspace_far_pages_) {
    far_pages = workspace_far_pages_;
  } else {
    far_pages = std::max(far_pages, 2 * workspace_far_pages_);
  }
  const auto bytes = at::TensorOptions(at::kByte).device(device_);
  const ModelConfig& c = config_;
  const at::Tensor dense =
      at::zeros({cuda::DecodeWorkspaceBytes(sequences, c.num_heads, c.num_kv_heads,
                                            c.head_dim, multiprocessors_)},
                bytes);
  refined_workspace_ =
      at::zeros({cuda::RefinedWorkspaceBytes(sequences, c.num_heads, c.num_kv_heads,
                                             c.head_dim, multiprocessors_, far_pages)},
                bytes);
  workspace_ = dense;
  workspace_sequences_ = sequences;
  workspace_far_pages_ = far_pages;
}

absl::StatusOr<std::unique_ptr<CudaDecoder>> CudaDecoder::Load(const ModelConfig& config,
                                                               const WeightSource& source,
                                                               at::Device device) {
  QUIRE_RETURN_IF_ERROR(CheckShape(config));
  QUIRE_ASSIGN_OR_RETURN(CudaWeights weights, LoadCudaWeights(config, source, device));
  return Make(config, std::move(weights), device);
}

absl::StatusOr<std::unique_ptr<CudaDecoder>> CudaDecoder::Make(const ModelConfig& config,
                                                               CudaWeights weights,
                                                               at::Device device) {
  QUIRE_RETURN_IF_ERROR(CheckShape(config));
  return std::unique_ptr<CudaDecoder>(
      new CudaDecoder(config, std::move(weights), device));
}

at::Tensor CudaDecoder::Normed(at::Tensor& residual, const at::Tensor& update,
                               const at::Tensor& weight) const {
  at::Tensor out = at::empty(residual.sizes(), residual.options().dtype(at::kBFloat16));
  ThrowIfError(cuda::AddRmsNorm(residual.data_ptr<float>(),
                                update.defined() ? Data(update) : nullptr, Floats(weight),
                                config_.rms_norm_eps, residual.size(0), residual.size(1),
                                Data(out), Stream()));
  return out;
}

at::Tensor CudaDecoder::RotateAndStore(const Layer& layer, const at::Tensor& qkv,
                                       const Rows& rows,
                                       const CudaKvCache::Layer& kv) const {
  at::Tensor q =
      at::empty({qkv.size(0), config_.num_heads, config_.head_dim}, qkv.options());
  const cuda::RopeArgs args = {.qkv = Data(qkv),
                               .cos = Floats(rows.cos),
                               .sin = Floats(rows.sin),
                               .q_norm = Floats(layer.q_norm),
                               .k_norm = Floats(layer.k_norm),
                               .slots = rows.step.slots(),
                               .q = Data(q),
                               .k = Data(kv.k),
                               .v = Data(kv.v),
                               .norm_eps = config_.rms_norm_eps,
                               .rows = qkv.size(0),
                               .query_heads = config_.num_heads,
                               .kv_heads = config_.num_kv_heads,
                               .head_dim = config_.head_dim};
  ThrowIfError(cuda::RopeAndStore(args, Stream()));
  return q;
}

cuda::DecodeArgs CudaDecoder::DecodeArgsOf(const CudaStep::Decode& tables,
                                           const at::Tensor& q,
                                           const CudaKvCache::Layer& kv,
                                           at::Tensor& out) const {
  return {.q = Data(q),
          .k = Data(kv.k),
          .v = Data(kv.v),
          .out = Data(out),
          .rows = tables.rows,
          .lengths = tables.lengths,
          .first_page = tables.first_page,
          .pages = tables.pages,
          .workspace = workspace_.data_ptr(),
          .sequences = tables.sequences,
          .max_sequences = workspace_sequences_,
          .blocks = multiprocessors_,
          .query_heads = config_.num_heads,
          .kv_heads = config_.num_kv_heads,
          .head_dim = config_.head_dim,
          .scale = Scale(config_)};
}

void CudaDecoder::DecodeRefined(int32_t layer, const at::Tensor& q, const Rows& rows,
                                const CudaKvCache::Layer& kv, at::Tensor& out) const {
  const CudaStep::Decode far = rows.step.far();
  const cuda::RefinedDecodeArgs args = {
      .near = DecodeArgsOf(rows.step.near(), q, kv, out),
      .index = kv.index.const_data_ptr<uint8_t>(),
      .first_far_page = far.first_page,
      .far_pages = far.pages,
      .draws = draws_.const_data_ptr<int16_t>(),
      .log2_tau = rows.step.log2_tau(),
      .far_page_count = far.page_count,
      .layer = layer,
      .workspace = refined_workspace_.data_ptr(),
      .counts = static_cast<cuda::RefinedDecodeArgs::Counts*>(rows.counts.data_ptr())};
  ThrowIfError(cuda::RefinedDecode(args, Stream()));
}

// Dense rows, and after them refined ones.
void CudaDecoder::AttendPrompt(int32_t layer, size_t sequence, const at::Tensor& q,
                               const Rows& rows, const CudaKvCache::Layer& kv,
                               at::Tensor& out) const {
  const CudaSequence& s = rows.sequences[sequence];
  const int32_t* const pages = rows.step.pages(sequence);
  const int64_t dense = s.rows.rows - s.refined_rows;
  if (dense > 0) {
    kernels::SequenceRows part = s.rows;
    part.rows = dense;
    DensePrefill(q, kv.k, kv.v, pages, part, Scale(config_), out);
  }
  if (s.refined_rows == 0) return;
  const kernels::SequenceRows part = {s.rows.first_row + dense, s.refined_rows,
                                      s.rows.begin + static_cast<Position>(dense),
                                      s.rows.blocks};
  RefinedPrompt(q, kv.k, kv.v, part,
                {.scale = Scale(config_),
                 .eps = s.eps,
                 .layer = layer,
                 .pages = pages,
                 .counts = rows.prompt_counts[static_cast<int64_t>(sequence)].data_ptr()},
                out);
}

// One sequence that does not decode together with others.
void CudaDecoder::AttendAlone(int32_t layer, size_t sequence, const at::Tensor& q,
                              const Rows& rows, const CudaKvCache::Layer& kv,
                              at::Tensor& out) const {
  const CudaSequence& s = rows.sequences[sequence];
  if (s.reading == CudaSequence::Reading::kFaithful) {
    s.faithful->Attend(layer, q, kv.k, kv.v, Scale(config_), out);
  } else {
    AttendPrompt(layer, sequence, q, rows, kv, out);
  }
  for (Probe& probe : rows.probes) {
    if (probe.sequence != sequence) continue;
    const at::Tensor k = GatherTokens(kv.k, rows.step.pages(sequence),
                                      s.rows.begin + s.rows.rows);  // [G, tokens, D]
    ProbeOnDevice(q, k, s.rows, probe.rows, Scale(config_), probe.attention);
  }
}

void CudaDecoder::Audit(const at::Tensor& q, const Rows& rows,
                        const CudaKvCache::Layer& kv, const at::Tensor& out) const {
  at::Tensor dense = at::empty_like(q);
  ThrowIfError(
      cuda::DenseDecode(DecodeArgsOf(rows.step.audits(), q, kv, dense), Stream()));
  at::Tensor errors = rows.audit_errors;
  AddAuditErrors(out, dense, rows.step.audited_rows(), errors);
}

at::Tensor CudaDecoder::Attend(int32_t layer, const at::Tensor& q, const Rows& rows,
                               const CudaKvCache::Layer& kv) const {
  at::Tensor out = at::empty_like(q);
  if (rows.step.dense().sequences > 0) {
    ThrowIfError(
        cuda::DenseDecode(DecodeArgsOf(rows.step.dense(), q, kv, out), Stream()));
  }
  if (rows.step.near().sequences > 0) DecodeRefined(layer, q, rows, kv, out);
  for (size_t i = 0; i < rows.sequences.size(); ++i) {
    const CudaSequence::Reading reading = rows.sequences[i].reading;
    if (reading == CudaSequence::Reading::kDenseDecode) continue;
    if (reading == CudaSequence::Reading::kRefinedDecode) continue;
    rows.timer.Start(i, Stream());
    AttendAlone(layer, i, q, rows, kv, out);
    rows.timer.Stop(Stream());
  }
  if (rows.audit_errors.defined()) Audit(q, rows, kv, out);
  return out.view({q.size(0), -1});
}

void CudaDecoder::RunLayer(int32_t index, Rows& rows, CudaKvCache& cache) const {
  const Layer& layer = weights_.layers[index];
  const CudaKvCache::Layer& kv = cache.layer(index);
  const at::Tensor normed = Normed(rows.residual, rows.update, layer.attention_norm);
  const at::Tensor q = RotateAndStore(layer, layer.qkv.Apply(normed), rows, kv);
  const at::Tensor attended = layer.output.Apply(Attend(index, q, rows, kv));
  const at::Tensor inner =
      layer.gate_up.ApplyGated(Normed(rows.residual, attended, layer.mlp_norm));
  rows.update = layer.down.Apply(inner);
}

// Before the layers: far pages' keys were all written in earlier steps. Returns how many
// pages there were.
int64_t CudaDecoder::IndexFarPages(absl::Span<const CudaSequence> sequences,
                                   CudaKvCache& cache) {
  ForgetIndices(sequences, cache);
  const std::vector<int32_t> blocks = TakeUnindexed(sequences, cache);
  if (blocks.empty()) return 0;
  const auto count = static_cast<int64_t>(blocks.size());
  try {
    const at::Tensor sent = Send(blocks, device_);
    for (int32_t i = 0; i < config_.num_layers; ++i) {
      const CudaKvCache::Layer& kv = cache.layer(i);
      ThrowIfError(cuda::IndexPages(Data(kv.k), sent.const_data_ptr<int32_t>(), count,
                                    config_.num_kv_heads, config_.head_dim,
                                    kv.index.data_ptr<uint8_t>(), Stream()));
    }
  } catch (...) {  // whoever tries again makes them
    for (const int32_t block : blocks) cache.ForgetIndex(BlockId{block});
    throw;
  }
  return count;
}

CudaDecoder::Result CudaDecoder::Run(const CudaStep& step,
                                     absl::Span<const CudaSequence> sequences,
                                     absl::Span<Probe> probes, CudaKvCache& cache) {
  const auto floats = at::TensorOptions(at::kFloat).device(device_);
  const int64_t half = config_.head_dim / 2;
  Rows rows = {.step = step,
               .sequences = sequences,
               .probes = probes,
               .cos = at::empty({step.rows(), half}, floats),
               .sin = at::empty({step.rows(), half}, floats),
               .residual = at::empty({step.rows(), config_.hidden_size}, floats),
               .timer = timer_};
  if (step.audits().sequences > 0) {
    rows.audit_errors = at::zeros({step.audits().sequences}, floats);
  }
  if (step.near().sequences > 0) {
    rows.counts = at::zeros({step.near().sequences, 3}, floats.dtype(at::kLong));
  }
  if (std::any_of(sequences.begin(), sequences.end(),
                  [](const CudaSequence& s) { return s.refined_rows > 0; })) {
    rows.prompt_counts =
        at::zeros({static_cast<int64_t>(sequences.size()), 3}, floats.dtype(at::kLong));
  }
  ThrowIfError(cuda::EmbedRows(Data(weights_.embedding.weight), step.tokens(),
                               step.rows(), config_.hidden_size,
                               rows.residual.data_ptr<float>(), Stream()));
  ThrowIfError(cuda::RopeTable(step.positions(), Floats(inverse_frequencies_),
                               static_cast<float>(config_.rope.attention_factor),
                               step.rows(), half, rows.cos.data_ptr<float>(),
                               rows.sin.data_ptr<float>(), Stream()));
  for (int32_t i = 0; i < config_.num_layers; ++i) RunLayer(i, rows, cache);
  ThrowIfError(cuda::AddRows(rows.residual.data_ptr<float>(), Data(rows.update),
                             rows.residual.numel(), Stream()));
  return {.hidden = rows.residual,
          .counts = rows.counts,
          .prompt_counts = rows.prompt_counts,
          .audit_errors = rows.audit_errors};
}

bool CudaDecoder::RunsAsGraph(absl::Span<const CudaSequence> sequences) const {
  return use_graphs_ && static_cast<int64_t>(sequences.size()) <= kMaxGraphRows &&
         std::all_of(sequences.begin(), sequences.end(), [](const CudaSequence& s) {
           return s.audited.empty() &&
                  (s.reading == CudaSequence::Reading::kDenseDecode ||
                   s.reading == CudaSequence::Reading::kRefinedDecode);
         });
}

// The padded shape, with tables for it. Each kind of decoding has places for all rows, if
// there is any of it: how they divide makes no other graph.
CudaStep::Shape CudaDecoder::GraphShape(absl::Span<const CudaSequence> sequences) {
  const CudaStep::Shape exact = CudaStep::Shape::Of(sequences);
  const auto padded = [this](int64_t rows, bool dense, bool refined) {
    const auto decodes = static_cast<int32_t>(rows);
    return CudaStep::Shape{.rows = rows,
                           .targets = rows,
                           .dense = dense ? decodes : 0,
                           .refined = refined ? decodes : 0,
                           .dense_pages = dense ? graph_pages_ : 0,
                           .near_pages = refined ? rows * CudaStep::kMaxNearPages : 0,
                           .far_pages = refined ? graph_pages_ : 0};
  };
  const int64_t pages = std::max(exact.dense_pages, exact.far_pages);
  if (pages > graph_pages_) {
    graphs_.Clear();
    // As many as there are blocks are seldom exceeded: by sequences that share theirs.
    const int64_t blocks = cache_->layer(0).k.size(0);
    const int64_t grown = std::max({pages, 2 * graph_pages_, kMinGraphPages, blocks});
    graph_pages_ = 0;  // if there is no memory
    graph_tables_ = {};
    CudaStep::Shape largest = padded(kMaxGraphRows, true, true);
    largest.dense_pages = largest.far_pages = grown;
    graph_tables_ = CudaStep::Memory::MakeLasting(CudaStep::Entries(largest), device_);
    graph_pages_ = grown;
  }
  const int64_t rows =
      *std::lower_bound(std::begin(kGraphRows), std::end(kGraphRows), exact.rows);
  return padded(rows, exact.dense > 0, exact.refined > 0);
}

CudaDecoder::Result CudaDecoder::ForwardAsGraph(absl::Span<const TokenId> tokens,
                                                absl::Span<const CudaSequence> sequences,
                                                CudaKvCache& cache) {
  const CudaStep::Shape shape = GraphShape(sequences);
  GrowWorkspace(static_cast<int32_t>(shape.rows), shape.far_pages);
  const CudaStep step(shape, tokens, sequences, graph_tables_);
  const CudaGraphs::Outputs outputs =
      graphs_.Run({shape.rows, shape.dense > 0, shape.refined > 0}, [&] {
        const Result result = Run(step, {}, {}, cache);
        const at::Tensor logits = Logits(result.hidden);
        return CudaGraphs::Outputs{result.hidden, result.counts, logits,
                                   SummarizeLogits(logits, step.targets())};
      });
  const auto rows = static_cast<int64_t>(tokens.size());
  return {.hidden = outputs[0].narrow(0, 0, rows),
          .counts = outputs[1],
          .logits = outputs[2].narrow(0, 0, rows),
          .numbers = outputs[3]};
}

CudaDecoder::Result CudaDecoder::Forward(absl::Span<const TokenId> tokens,
                                         absl::Span<const CudaSequence> sequences,
                                         absl::Span<Probe> probes, CudaKvCache& cache) {
  QUIRE_CHECK(cache_ == nullptr || cache_ == &cache);
  cache_ = &cache;
  timer_.Clear();
  const int64_t indexed = IndexFarPages(sequences, cache);
  Result result;
  if (RunsAsGraph(sequences)) {
    result = ForwardAsGraph(tokens, sequences, cache);
  } else {
    for (Probe& probe : probes) {
      const kernels::SequenceRows& s = sequences[probe.sequence].rows;
      probe.attention = at::zeros({s.begin + probe.rows.back() + 1},
                                  at::TensorOptions(at::kFloat).device(device_));
    }
    const CudaStep step(tokens, sequences, device_);
    GrowWorkspace(
        std::max(static_cast<int32_t>(sequences.size()), step.audits().sequences),
        step.far().page_count);
    result = Run(step, sequences, probes, cache);
  }
  result.indexed_pages = indexed;
  return result;
}

at::Tensor CudaDecoder::Logits(const at::Tensor& hidden) const {
  at::Tensor rows = hidden.contiguous();
  const at::Tensor normed = Normed(rows, {}, weights_.final_norm);
  return (config_.tie_embeddings ? weights_.embedding : weights_.head).ApplyF32(normed);
}

}  // namespace quire

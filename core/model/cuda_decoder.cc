#include "core/model/cuda_decoder.h"

#include <algorithm>
#include <cmath>

#include "ATen/ops/empty.h"
#include "ATen/ops/empty_like.h"
#include "ATen/ops/zeros.h"
#include "absl/strings/str_cat.h"
#include "c10/cuda/CUDAStream.h"
#include "core/base/status_macros.h"
#include "core/kernels/cuda/refined.h"
#include "core/kernels/refined.h"
#include "core/model/cuda_check.h"
#include "core/model/cuda_prefill.h"
#include "core/model/layer_parts.h"
#include "core/model/weight_map.h"

namespace quire {
namespace {

namespace cuda = kernels::cuda;
using cuda::Bf16;

Bf16* Data(const at::Tensor& t) { return static_cast<Bf16*>(t.data_ptr()); }
const float* Floats(const at::Tensor& t) {
  return t.defined() ? t.const_data_ptr<float>() : nullptr;
}
cudaStream_t Stream() { return c10::cuda::getCurrentCUDAStream(); }
float Scale(const ModelConfig& c) {
  return 1.0f / std::sqrt(static_cast<float>(c.head_dim));
}

// Far pages that have no index yet.
std::vector<int32_t> BlocksToIndex(absl::Span<const CudaSequence> sequences,
                                   CudaKvCache& cache) {
  for (const CudaSequence& s : sequences) {
    const int64_t first = (s.rows.begin + cuda::kPageTokens - 1) / cuda::kPageTokens;
    for (int64_t page = first; page * cuda::kPageTokens < s.rows.begin + s.rows.rows;
         ++page) {
      cache.ForgetIndex(s.rows.blocks[page]);
    }
  }
  std::vector<int32_t> blocks;
  for (const CudaSequence& s : sequences) {
    if (s.reading != CudaSequence::Reading::kRefinedDecode) continue;
    const std::vector<int32_t> missing =
        cache.TakeUnindexed(s.rows.blocks.subspan(1, s.far_pages()));
    blocks.insert(blocks.end(), missing.begin(), missing.end());
  }
  return blocks;
}

absl::StatusOr<CudaLinear> Upload(const WeightMap& weights,
                                  const std::vector<WeightMap::Part>& parts,
                                  int64_t columns, at::Device device) {
  QUIRE_ASSIGN_OR_RETURN(const WeightMap::Joined joined, weights.Join(parts, columns));
  // Narrowed on the host: half as much to send.
  const auto send = [&](const at::Tensor& t) {
    return t.defined() ? t.to(at::kBFloat16).to(device) : at::Tensor();
  };
  return CudaLinear{send(joined.weight), send(joined.bias)};
}

absl::Status CheckShape(const ModelConfig& c) {
  if (!cuda::HasDecodeKernel(c.head_dim, c.num_heads / c.num_kv_heads)) {
    return absl::UnimplementedError(absl::StrCat(
        "device is CUDA; its kernels take heads of 64 or 128 channels, which have ",
        c.head_dim, ", and at most ", cuda::kMaxDecodeShare,
        " query heads a key/value head, of which there are ",
        c.num_heads / c.num_kv_heads, "; use device cpu"));
  }
  if (c.hidden_size % 8 != 0 || c.intermediate_size % 8 != 0) {
    return absl::UnimplementedError(absl::StrCat(
        "device is CUDA; its kernels take hidden and intermediate sizes that 8 divides, "
        "which are ",
        c.hidden_size, " and ", c.intermediate_size, "; use device cpu"));
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
};

CudaDecoder::CudaDecoder(const ModelConfig& config, at::Device device)
    : config_(config), device_(device) {
  ThrowIfError(cudaDeviceGetAttribute(&multiprocessors_, cudaDevAttrMultiProcessorCount,
                                      device.index()));
  const std::vector<double> frequencies =
      RopeInverseFrequencies(config.rope, config.head_dim, config.max_positions);
  at::Tensor host = at::empty({static_cast<int64_t>(frequencies.size())}, at::kFloat);
  for (size_t i = 0; i < frequencies.size(); ++i) {
    host.data_ptr<float>()[i] = static_cast<float>(frequencies[i]);
  }
  inverse_frequencies_ = host.to(device);
  at::Tensor draws = at::empty({kernels::kDraws}, at::kShort);
  std::copy_n(kernels::DrawTable(), kernels::kDraws, draws.data_ptr<int16_t>());
  draws_ = draws.to(device);
  GrowWorkspace(64, 1024);
}

// Zeroed when made: the kernels leave their counters at zero.
void CudaDecoder::GrowWorkspace(int32_t sequences, int64_t far_pages) {
  if (sequences <= workspace_sequences_ && far_pages <= workspace_far_pages_) return;
  if (sequences > workspace_sequences_) {
    workspace_sequences_ = std::max(sequences, 2 * workspace_sequences_);
  }
  if (far_pages > workspace_far_pages_) {
    workspace_far_pages_ = std::max(far_pages, 2 * workspace_far_pages_);
  }
  const auto bytes = at::TensorOptions(at::kByte).device(device_);
  const ModelConfig& c = config_;
  workspace_ = at::zeros(
      {cuda::DecodeWorkspaceBytes(workspace_sequences_, c.num_heads, c.num_kv_heads,
                                  c.head_dim, multiprocessors_)},
      bytes);
  refined_workspace_ = at::zeros(
      {cuda::RefinedWorkspaceBytes(workspace_sequences_, c.num_heads, c.num_kv_heads,
                                   c.head_dim, multiprocessors_, workspace_far_pages_)},
      bytes);
}

absl::StatusOr<std::unique_ptr<CudaDecoder>> CudaDecoder::Load(const ModelConfig& config,
                                                               const WeightSource& source,
                                                               at::Device device) {
  QUIRE_RETURN_IF_ERROR(CheckShape(config));
  std::unique_ptr<CudaDecoder> decoder(new CudaDecoder(config, device));
  QUIRE_RETURN_IF_ERROR(decoder->LoadWeights(source));
  return decoder;
}

absl::Status CudaDecoder::LoadWeights(const WeightSource& source) {
  const WeightMap weights(source, config_);
  QUIRE_ASSIGN_OR_RETURN(embedding_,
                         Upload(weights, {{"model.embed_tokens", config_.vocab_size}},
                                config_.hidden_size, device_));
  if (!config_.tie_embeddings) {
    QUIRE_ASSIGN_OR_RETURN(head_, Upload(weights, {{"lm_head", config_.vocab_size}},
                                         config_.hidden_size, device_));
  }
  QUIRE_ASSIGN_OR_RETURN(final_norm_,
                         weights.Vector("model.norm.weight", config_.hidden_size));
  final_norm_ = final_norm_.to(device_);
  for (int32_t i = 0; i < config_.num_layers; ++i) {
    QUIRE_RETURN_IF_ERROR(LoadLayer(source, i));
  }
  return absl::OkStatus();
}

absl::Status CudaDecoder::LoadLayer(const WeightSource& source, int32_t index) {
  const WeightMap weights(source, config_);
  const LayerParts parts = PartsOf(config_, index);
  Layer l;
  QUIRE_ASSIGN_OR_RETURN(l.attention_norm,
                         weights.Vector(parts.attention_norm, config_.hidden_size));
  QUIRE_ASSIGN_OR_RETURN(l.mlp_norm, weights.Vector(parts.mlp_norm, config_.hidden_size));
  if (config_.qk_norm) {
    QUIRE_ASSIGN_OR_RETURN(l.q_norm, weights.Vector(parts.q_norm, config_.head_dim));
    QUIRE_ASSIGN_OR_RETURN(l.k_norm, weights.Vector(parts.k_norm, config_.head_dim));
    l.q_norm = l.q_norm.to(device_);
    l.k_norm = l.k_norm.to(device_);
  }
  l.attention_norm = l.attention_norm.to(device_);
  l.mlp_norm = l.mlp_norm.to(device_);
  QUIRE_ASSIGN_OR_RETURN(l.qkv, Upload(weights, parts.qkv, config_.hidden_size, device_));
  QUIRE_ASSIGN_OR_RETURN(l.output, Upload(weights, parts.output,
                                          config_.num_heads * config_.head_dim, device_));
  QUIRE_ASSIGN_OR_RETURN(l.gate_up,
                         Upload(weights, parts.gate_up, config_.hidden_size, device_));
  QUIRE_ASSIGN_OR_RETURN(l.down,
                         Upload(weights, parts.down, config_.intermediate_size, device_));
  layers_.push_back(std::move(l));
  return absl::OkStatus();
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
      .draw_starts = rows.step.draw_starts(layer),
      .draws = draws_.const_data_ptr<int16_t>(),
      .log2_tau = rows.step.log2_tau(),
      .far_page_count = far.page_count,
      .workspace = refined_workspace_.data_ptr(),
      .counts = static_cast<cuda::RefinedDecodeArgs::Counts*>(rows.counts.data_ptr())};
  ThrowIfError(cuda::RefinedDecode(args, Stream()));
}

at::Tensor CudaDecoder::Attend(int32_t layer, const at::Tensor& q, const Rows& rows,
                               const CudaKvCache::Layer& kv) const {
  at::Tensor out = at::empty_like(q);
  if (rows.step.index_blocks() > 0) {
    ThrowIfError(cuda::IndexPages(
        Data(kv.k), rows.step.blocks_to_index(), rows.step.index_blocks(),
        config_.num_kv_heads, config_.head_dim, kv.index.data_ptr<uint8_t>(), Stream()));
  }
  if (rows.step.dense().sequences > 0) {
    ThrowIfError(
        cuda::DenseDecode(DecodeArgsOf(rows.step.dense(), q, kv, out), Stream()));
  }
  if (rows.step.near().sequences > 0) DecodeRefined(layer, q, rows, kv, out);
  for (size_t i = 0; i < rows.sequences.size(); ++i) {
    if (rows.sequences[i].reading != CudaSequence::Reading::kPrefill) continue;
    const kernels::SequenceRows& s = rows.sequences[i].rows;
    const at::Tensor k = GatherTokens(kv.k, rows.step.pages(i), s.begin + s.rows);
    const at::Tensor v = GatherTokens(kv.v, rows.step.pages(i), s.begin + s.rows);
    DensePrefill(q, k, v, s, Scale(config_), out);
    for (Probe& probe : rows.probes) {
      if (probe.sequence != i) continue;
      ProbeOnDevice(q, k, s, probe.rows, Scale(config_), probe.attention);
    }
  }
  return out.view({q.size(0), -1});
}

void CudaDecoder::RunLayer(int32_t index, Rows& rows, CudaKvCache& cache) const {
  const Layer& layer = layers_[index];
  const CudaKvCache::Layer& kv = cache.layer(index);
  const at::Tensor normed = Normed(rows.residual, rows.update, layer.attention_norm);
  const at::Tensor q = RotateAndStore(layer, layer.qkv.Apply(normed), rows, kv);
  const at::Tensor attended = layer.output.Apply(Attend(index, q, rows, kv));
  const at::Tensor gate_up =
      layer.gate_up.Apply(Normed(rows.residual, attended, layer.mlp_norm));
  at::Tensor inner =
      at::empty({gate_up.size(0), config_.intermediate_size}, gate_up.options());
  ThrowIfError(cuda::SiluMul(Data(gate_up), gate_up.size(0), config_.intermediate_size,
                             Data(inner), Stream()));
  rows.update = layer.down.Apply(inner);
}

CudaDecoder::Result CudaDecoder::Forward(absl::Span<const TokenId> tokens,
                                         absl::Span<const CudaSequence> sequences,
                                         absl::Span<Probe> probes, CudaKvCache& cache) {
  const auto floats = at::TensorOptions(at::kFloat).device(device_);
  for (Probe& probe : probes) {
    const kernels::SequenceRows& s = sequences[probe.sequence].rows;
    probe.attention = at::zeros({s.begin + probe.rows.back() + 1}, floats);
  }
  const std::vector<int32_t> blocks = BlocksToIndex(sequences, cache);
  const CudaStep step(tokens, sequences, blocks, config_.num_layers, config_.num_kv_heads,
                      device_);
  GrowWorkspace(static_cast<int32_t>(sequences.size()), step.far().page_count);
  const int64_t half = config_.head_dim / 2;
  Rows rows = {.step = step,
               .sequences = sequences,
               .probes = probes,
               .cos = at::empty({step.rows(), half}, floats),
               .sin = at::empty({step.rows(), half}, floats),
               .residual = at::empty({step.rows(), config_.hidden_size}, floats)};
  if (step.near().sequences > 0) {
    rows.counts = at::zeros({step.near().sequences, 3}, floats.dtype(at::kLong));
  }
  ThrowIfError(cuda::EmbedRows(Data(embedding_.weight), step.tokens(), step.rows(),
                               config_.hidden_size, rows.residual.data_ptr<float>(),
                               Stream()));
  ThrowIfError(cuda::RopeTable(step.positions(), Floats(inverse_frequencies_),
                               static_cast<float>(config_.rope.attention_factor),
                               step.rows(), half, rows.cos.data_ptr<float>(),
                               rows.sin.data_ptr<float>(), Stream()));
  for (int32_t i = 0; i < config_.num_layers; ++i) RunLayer(i, rows, cache);
  ThrowIfError(cuda::AddRows(rows.residual.data_ptr<float>(), Data(rows.update),
                             rows.residual.numel(), Stream()));
  return {rows.residual, rows.counts, static_cast<int64_t>(blocks.size())};
}

at::Tensor CudaDecoder::Logits(const at::Tensor& hidden) const {
  at::Tensor rows = hidden.contiguous();
  const at::Tensor normed = Normed(rows, {}, final_norm_);
  return (config_.tie_embeddings ? embedding_ : head_).ApplyF32(normed);
}

int64_t CudaDecoder::weight_bytes() const {
  return config_.tie_embeddings
             ? WeightBytes<CudaLinear>({&embedding_}, final_norm_, layers_)
             : WeightBytes<CudaLinear>({&embedding_, &head_}, final_norm_, layers_);
}

}  // namespace quire

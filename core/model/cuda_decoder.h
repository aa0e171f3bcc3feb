#pragma once

#include <memory>
#include <vector>

#include "ATen/core/Tensor.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "core/config/model_config.h"
#include "core/kernels/cuda/cuda_kernels.h"
#include "core/kernels/kernels.h"
#include "core/model/cuda_graphs.h"
#include "core/model/cuda_kv_cache.h"
#include "core/model/cuda_step.h"
#include "core/model/cuda_timer.h"
#include "core/model/cuda_weights.h"
#include "core/weights/weight_source.h"

namespace quire {

// Decoder on a GPU: the same model in bfloat16, with activations of a step on the device
// from its tokens to its logits. Nothing waits for the device here. Immutable but for its
// workspace and graphs; not thread-safe. Errors of CUDA and ATen are thrown.
//
// A step of at most kMaxGraphRows rows in which every sequence decodes one token runs
// padded to one of few sizes and, from the second time on, as a CUDA graph: from its
// tokens to what is kept of its logits. Padding leaves attention's bits as they are; a
// linear layer's may depend on how many rows it has (cuBLAS chooses by that).
class CudaDecoder {
 public:
  // A sequence of a step whose attention some rows are asked about.
  struct Probe {
    size_t sequence = 0;        // index
    std::vector<int64_t> rows;  // of the sequence, ascending
    at::Tensor attention;  // out: [begin + last row + 1] float32 on the device, summed
                           // over rows and layers, mean over heads
  };

  static constexpr int64_t kMaxGraphRows = 64;

  // kUnimplemented names a head size or a share of query heads for which there is no
  // kernel; other errors are WeightMap's.
  static absl::StatusOr<std::unique_ptr<CudaDecoder>> Load(const ModelConfig& config,
                                                           const WeightSource& source,
                                                           at::Device device);
  // Of weights that are there, in the shapes that `config` says.
  static absl::StatusOr<std::unique_ptr<CudaDecoder>> Make(const ModelConfig& config,
                                                           CudaWeights weights,
                                                           at::Device device);

  struct Result {
    at::Tensor hidden;  // [T, E] float32, before the final norm
    // [refined decodes, 3] int64, see kernels::cuda::RefinedDecodeArgs::Counts: of all
    // layers. Undefined if there are none.
    at::Tensor counts;
    // The same of refined rows of prompts: [sequences, 3], zeros for the others.
    at::Tensor prompt_counts;
    int64_t indexed_pages = 0;  // whose index was made, in every layer
    // [audited rows of all sequences, in order] float32, the sum over layers, see
    // cuda_audit.h. Undefined if there are none.
    at::Tensor audit_errors;
    // Of a step that decodes only, see above: [T, vocab] float32, and SummarizeLogits of
    // the rows with their sequences' targets, of which there may be more than rows.
    // Otherwise undefined.
    at::Tensor logits;
    at::Tensor numbers;
  };
  // Runs the rows of all sequences through every layer; their keys and values are in the
  // cache afterwards. A probed sequence is read kPrefill or kFaithful. The result is
  // valid until the next call. REQUIRES: the same cache in every call, and that the
  // device has done the last one.
  Result Forward(absl::Span<const TokenId> tokens,
                 absl::Span<const CudaSequence> sequences, absl::Span<Probe> probes,
                 CudaKvCache& cache);

  // How long the attention of a sequence of the last Forward took, which the device has
  // finished. 0 for those that decode: all of a step run together, and events between the
  // kernels of a token would cost as much as they do.
  double AttentionSeconds(size_t sequence) const { return timer_.Seconds(sequence); }

  // hidden [R, E], rows of Forward's result -> [R, vocab] float32.
  at::Tensor Logits(const at::Tensor& hidden) const;

  const ModelConfig& config() const { return config_; }
  at::Device device() const { return device_; }
  int64_t weight_bytes() const { return weights_.bytes(); }
  // Whether there is a kernel for CudaSequence::refined_rows.
  bool refines_prompts() const { return refines_prompts_; }

  // For tests and measurements: false runs every step as it is, launch by launch.
  void set_use_graphs(bool use) { use_graphs_ = use; }
  size_t captured_graphs() const { return graphs_.captured(); }

 private:
  using Layer = CudaWeights::Layer;
  struct Rows;

  CudaDecoder(const ModelConfig& config, CudaWeights weights, at::Device device);
  void GrowWorkspace(int32_t sequences, int64_t far_pages);
  int64_t IndexFarPages(absl::Span<const CudaSequence> sequences, CudaKvCache& cache);
  bool RunsAsGraph(absl::Span<const CudaSequence> sequences) const;
  CudaStep::Shape GraphShape(absl::Span<const CudaSequence> sequences);
  Result ForwardAsGraph(absl::Span<const TokenId> tokens,
                        absl::Span<const CudaSequence> sequences, CudaKvCache& cache);
  Result Run(const CudaStep& step, absl::Span<const CudaSequence> sequences,
             absl::Span<Probe> probes, CudaKvCache& cache);
  at::Tensor Normed(at::Tensor& residual, const at::Tensor& update,
                    const at::Tensor& weight) const;
  void RunLayer(int32_t index, Rows& rows, CudaKvCache& cache) const;
  at::Tensor RotateAndStore(const Layer& layer, const at::Tensor& qkv, const Rows& rows,
                            const CudaKvCache::Layer& kv) const;
  at::Tensor Attend(int32_t layer, const at::Tensor& q, const Rows& rows,
                    const CudaKvCache::Layer& kv) const;
  kernels::cuda::DecodeArgs DecodeArgsOf(const CudaStep::Decode& tables,
                                         const at::Tensor& q,
                                         const CudaKvCache::Layer& kv,
                                         at::Tensor& out) const;
  void AttendPrompt(int32_t layer, size_t sequence, const at::Tensor& q, const Rows& rows,
                    const CudaKvCache::Layer& kv, at::Tensor& out) const;
  void AttendAlone(int32_t layer, size_t sequence, const at::Tensor& q, const Rows& rows,
                   const CudaKvCache::Layer& kv, at::Tensor& out) const;
  void Audit(const at::Tensor& q, const Rows& rows, const CudaKvCache::Layer& kv,
             const at::Tensor& out) const;
  void DecodeRefined(int32_t layer, const at::Tensor& q, const Rows& rows,
                     const CudaKvCache::Layer& kv, at::Tensor& out) const;

  const ModelConfig config_;
  const at::Device device_;
  int32_t multiprocessors_ = 0;
  bool refines_prompts_ = false;
  at::Tensor inverse_frequencies_;  // [D / 2] float32
  at::Tensor draws_;                // kernels::DrawTable
  // Of DenseDecode and RefinedDecode, for so much:
  at::Tensor workspace_, refined_workspace_;
  int32_t workspace_sequences_ = 0;
  int64_t workspace_far_pages_ = 0;
  CudaTimer timer_;  // of the attention of sequences that are read alone
  const CudaWeights weights_;
  const CudaKvCache* cache_ = nullptr;  // of all steps

  bool use_graphs_ = true;
  int64_t graph_pages_ = 0;        // of each list of pages in graph_tables_
  CudaStep::Memory graph_tables_;  // of the largest shape with them
  CudaGraphs graphs_;              // their memory, and all above, must outlive them
};

}  // namespace quire
